"""Arbitrary bytes: one answer each, no crash, and other clients' answers stay the same bits."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checked_client import checked_clients, ended_well

from policy_server.contract import wire
from policy_server.contract.wire import Header, Kind, Status
from policy_server.serving.rate_limit import BadMessageLimit
from policy_server.serving.server import PolicyServer

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from soaking.attacker import LEAKS, Attacker
from soaking.mutations import valid_frames

# The answer to hello is long and always the same.
FRAMES = [frame for frame in valid_frames(3) if b"hello" not in frame]
ODDITIES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9)
)
ANY_JSON = st.recursive(
    ODDITIES,
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=5), x, max_size=4),
)
fuzz = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Sieve:
    """A server in this process. `answer` hands it a frame and returns its answer."""

    def __init__(self, bundle_path):
        self.server = PolicyServer(bundle_path, "tcp://127.0.0.1:*", "cpu")
        self.server.close()
        self.server.state.bad_messages = BadMessageLimit(burst=10**9)
        self.sent = []
        self.server.state.send = lambda identity, frame: self.sent.append(
            (identity, *wire.decode(frame))
        )

    def answer(self, frame):
        self.sent.clear()
        self.server._take(b"peer", [frame], time.monotonic_ns())
        self.server._compute()
        ((identity, header, payload),) = self.sent
        assert identity == b"peer"
        assert header.kind != Kind.ERROR or not LEAKS.search(payload)
        return header, payload


@pytest.fixture(scope="module")
def sieve(bundle_path):
    return Sieve(bundle_path)


@pytest.fixture
def checked(bundle_path):
    """Makes clients whose answers are checked."""
    with checked_clients(bundle_path) as make:
        yield make


@fuzz
@given(st.sampled_from(FRAMES), st.data())
def test_a_mutated_frame_gets_one_answer_with_its_sequence(sieve, frame, data):
    mutant = bytearray(frame)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutant)))
        mutant[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    header, _ = sieve.answer(bytes(mutant))
    assert header.status != Status.INTERNAL
    if header.status != Status.MALFORMED:
        assert header.sequence == int.from_bytes(mutant[8:16], "little")


@fuzz
@given(
    st.sampled_from(["reset", "health", "stats", "rollback", "kill", ""]) | ANY_JSON,
    st.dictionaries(st.text(), ANY_JSON),
)
def test_any_json_gets_one_answer(sieve, op, more):
    frame = wire.encode(
        Header(Kind.CONTROL, 0, 5),
        wire.json_bytes({**more, "op": "none" if op == "reload" else op}),
    )
    header, payload = sieve.answer(frame)
    assert (header.kind, header.sequence) in ((Kind.CONTROL_REPLY, 5), (Kind.ERROR, 5))
    assert header.status in (Status.OK, Status.MALFORMED, Status.UNSUPPORTED, Status.REFUSED)
    assert header.kind == Kind.ERROR or isinstance(wire.parse_object(payload), dict)


@pytest.mark.parametrize(
    "payload", [b'{"op":' * 50_000, b'{"op":"reset","seed":' + b"9" * 5000 + b"}", b'{"op":NaN}']
)
def test_json_that_parsers_choke_on_is_malformed_or_unsupported(sieve, payload):
    header, _ = sieve.answer(wire.encode(Header(Kind.CONTROL, 0, 5), payload))
    assert header.kind == Kind.ERROR and header.status in (Status.MALFORMED, Status.UNSUPPORTED)


def attacked(start_server, bundle_path, checked, n):
    """Returns the report of a hostile peer that sends `n` bad frames beside a good client."""
    server = start_server(bundle_path)
    good = checked(server.endpoint)
    with ThreadPoolExecutor(1) as pool:
        report = pool.submit(Attacker(server.endpoint, 3).attack, n, 0, 5)
        n_good = 0
        while not report.done():
            good.act()
            n_good += 1
    assert n_good > 20
    good.act()
    assert ended_well(server.process)
    return report.result()


def test_bad_frames_on_real_sockets_do_not_touch_the_others(start_server, bundle_path, checked):
    report = attacked(start_server, bundle_path, checked, 2000)
    assert report["leak"] == "" and report["n_good_unanswered"] == 0
    assert report.get("n_ids_refused", 0) == 0
    assert sum(report["answers"].values()) > 0.9 * report["n_framed"] > 1500
    assert report["n_raw_ended"] > 50
    expected = {
        "MALFORMED",
        "BAD_LENGTH",
        "BAD_VERSION",
        "UNKNOWN_TYPE",
        "NOT_FINITE",
        "UNSUPPORTED",
        "ACT_REPLY",
    }
    assert report["answers"].keys() >= expected and "INTERNAL" not in report["answers"]


@pytest.mark.slow
def test_many_bad_frames_on_real_sockets(start_server, bundle_path, checked):
    report = attacked(start_server, bundle_path, checked, 50_000)
    assert report["leak"] == "" and "INTERNAL" not in report["answers"]
    assert sum(report["answers"].values()) > 0.9 * report["n_framed"]
