"""The C++ client against servers that stay silent, answer in disorder, or send no valid answer."""

import subprocess

import numpy as np
import pytest
import zmq
from support.cpp_client import values
from support.impostor import Impostor

from policy_server.contract import wire
from policy_server.contract.wire import Header, Kind, Status


def action(header, *values, **changes):
    header = header._replace(kind=Kind.ACT_REPLY, budget_us=0, **changes)
    return wire.encode(header, np.array(values, "<f4").tobytes())


def error(header, status, sequence=None):
    answered = header.sequence if sequence is None else sequence
    return wire.encode(Header(Kind.ERROR, status, answered), b"because")


def short_action(header):
    return wire.encode(header._replace(kind=Kind.ACT_REPLY), bytes(9))


def action_of_version_1(header):
    data = action(header, 1, 2)
    return data[:4] + b"\x01" + data[5:]


def control_reply(header):
    return wire.encode(header._replace(kind=Kind.CONTROL_REPLY), b"{}")


def test_the_times_and_the_policy_arrive(run):
    times = {"queue_us": 1, "inference_us": 2, "server_us": 3, "valid_us": 4}

    def reply(header):
        return [[action(header, 1, 2, **times, policy=b"\1\2\3\4\5\6\7\xff")]]

    with Impostor(reply) as server:
        assert run("times", server.endpoint, 1) == ["1 2 3 4 1 01020304050607ff"]


def test_what_it_sends(run):
    with Impostor(lambda header: [[action(header, 0.5)]]) as server:
        run("times", server.endpoint, 3)
    identity, frame = server.seen[0]
    header, payload = wire.decode(frame)
    assert len(identity) == 17 and identity[:1] == b"c"
    assert header.client_time_ns > 0
    assert header._replace(client_time_ns=0) == Header(Kind.ACT, 0, 1, 0, 5_000_000, 12)
    np.testing.assert_array_equal(np.frombuffer(payload, "<f4"), np.arange(3) / 8)


def test_identities_differ(run):
    with Impostor(lambda header: [[action(header, 0.5)]]) as server:
        run("times", server.endpoint, 1)
        run("times", server.endpoint, 1)
    assert len({identity for identity, _ in server.seen}) == 2


@pytest.mark.parametrize("deadline_us", [900, 33_500])
def test_silence_ends_at_the_deadline(run, deadline_us):
    with Impostor(lambda header: []) as server:
        waited_us, message = run("silence", server.endpoint, deadline_us)[0].split(" ", 1)
    assert deadline_us <= int(waited_us) < deadline_us + 500_000
    assert server.endpoint in message and "is the server running there" in message


def test_stale_replies_are_dropped(run):
    """The server keeps each answer back until the next request, so the first one read is stale."""
    kept = []

    def reply(header):
        kept.append([[error(header, Status.LATE)], [action(header, header.sequence)]])
        return [*kept[-2], [action(header, header.sequence)]] if len(kept) > 1 else []

    with Impostor(reply) as server:
        lines = run("stale", server.endpoint)
    assert lines[:2] == ["timeout", "1"]
    np.testing.assert_array_equal(values(lines[2:]).ravel(), [2, 3, 4, 5, 6])


def test_what_was_given_up_is_dropped_later_too(run):
    asked = []

    def reply(header):
        asked.append(header)
        return [[action(asked[0], 1, 2)], [error(header, Status.LATE)]] if len(asked) > 1 else []

    with Impostor(reply) as server:
        assert run("overdue", server.endpoint) == ["timeout", "refused 5, holds 0"]


def test_act_gives_up_what_was_sent_before(run):
    asked = []

    def reply(header):
        if header.kind == Kind.CONTROL:
            return [[control_reply(header)]]
        asked.append(header)
        return [[action(one, one.sequence)] for one in asked] if len(asked) > 1 else []

    with Impostor(reply) as server:
        assert values(run("overtake", server.endpoint)).tolist() == [[3]]


def test_a_burst_never_goes_back(run):
    """Of answers in disorder only newer ones are taken, up to the newest."""
    first = []

    def reply(header):
        if header.kind == Kind.CONTROL:
            return [[control_reply(header)]]
        first.append(header)
        if len(first) < 6:
            return []
        answers = [[action(first[i], first[i].sequence)] for i in (1, 0, 3, 2, 5)]
        return [[error(first[4], Status.SUPERSEDED)], *answers]

    with Impostor(reply) as server:
        taken = values(run("burst", server.endpoint, 6)).ravel().tolist()
    assert taken == sorted(set(taken))
    assert set(taken) <= {3.0, 5.0, 7.0}
    assert taken[-1] == 7.0


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (lambda header: [action(header, np.nan, 0)], Status.NOT_FINITE),
        (lambda header: [action(header, 0, -np.inf)], Status.NOT_FINITE),
        (lambda header: [action(header, 1, 2, 3)], Status.BAD_LENGTH),
        (lambda header: [short_action(header)], Status.BAD_LENGTH),
        (lambda header: [action(header, 1, 2) + b"more"], Status.BAD_LENGTH),
        (lambda header: [action(header, 1, 2)[:-1]], Status.BAD_LENGTH),
        (lambda header: [b"garbage"], Status.MALFORMED),
        (lambda header: [b""], Status.MALFORMED),
        (lambda header: [b"EDP2" + action(header, 1, 2)[4:]], Status.MALFORMED),
        (lambda header: [action(header, 1, 2), action(header, 1, 2)], Status.MALFORMED),
        (lambda header: [action_of_version_1(header)], Status.BAD_VERSION),
        (lambda header: [error(header, Status.LATE)], Status.LATE),
        (lambda header: [error(header, Status.SUPERSEDED)], Status.SUPERSEDED),
        (lambda header: [error(header, Status.MALFORMED, sequence=0)], Status.MALFORMED),
        (lambda header: [error(header, 999)], 999),
    ],
)
def test_unusable_answers_are_typed(run, reply, status):
    with Impostor(lambda header: [reply(header)]) as server:
        assert run("once", server.endpoint)[0].startswith(f"refused {int(status)} ")


def test_answers_to_what_was_never_asked_are_dropped(run):
    def reply(header):
        return [[action(header, 9, 9, sequence=99)], [action(header, 1, 2)]]

    with Impostor(reply) as server:
        assert values(run("once", server.endpoint)).tolist() == [[1, 2]]


@pytest.mark.skipif(not zmq.has("curve"), reason="this libzmq has no CURVE")
def test_keys(run, program):
    public, secret = zmq.curve_keypair()
    own = [key.decode() for key in zmq.curve_keypair()]
    options = {"curve_server": True, "curve_secretkey": secret}
    with Impostor(lambda header: [[action(header, 1, 2)]], **options) as server:
        assert values(run("once", server.endpoint, public.decode(), *own)).tolist() == [[1, 2]]
        for wrong in ([own[0], *own], []):
            assert run("once", server.endpoint, *wrong)[0].startswith("timeout not connected")
        for mistyped in (["", *own], [public.decode()[1:], *own]):
            command = [program, "once", server.endpoint, *mistyped]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 1
            assert "characters, expected three of 40" in done.stderr


def test_an_absent_server_is_a_timeout(run):
    (line,) = run("silence", "tcp://127.0.0.1:9", 20_000)
    assert "not connected within the deadline: tcp://127.0.0.1:9" in line
