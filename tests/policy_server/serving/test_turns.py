"""Which observation is computed next, and what the others are answered."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policy_server.contract import wire
from policy_server.contract.errors import BackendError
from policy_server.contract.wire import Header, Kind, Status
from policy_server.serving import server as servers
from policy_server.serving.rate_limit import BadMessageLimit
from policy_server.serving.scheduler import MAX_WAITING
from policy_server.serving.server import PolicyServer

OBS = np.float32([0.1, -0.2, 0.01])


class Bench:
    """A server without sockets: `give` hands it a message, `sent` holds its replies."""

    def __init__(self, bundle_path):
        self.server = PolicyServer(bundle_path, "tcp://127.0.0.1:*", "cpu")
        self.server.close()
        self.sent = []
        self.server.state.send = lambda identity, frame: self.sent.append(
            (identity, *wire.decode(frame))
        )
        self.now_ns = servers.time.monotonic_ns()

    def give(self, identity, sequence, budget_us=0, age_us=0, obs=OBS):
        frame = wire.encode(Header(Kind.ACT, 0, sequence, 0, budget_us), wire.float_bytes(obs))
        self.server._take(identity, [frame], servers.time.monotonic_ns() - age_us * 1000)

    def answers(self):
        self.server._compute()
        sent = list(self.sent)
        self.sent[:] = []
        return [(identity, header.sequence, Status(header.status)) for identity, header, _ in sent]


@pytest.fixture
def bench(bundle_path):
    return Bench(bundle_path)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.binary(max_size=80), min_size=1, max_size=3),
    st.sampled_from([b"", b"EDP1", b"EDP1\x02\x01\0\0"]),
)
def test_no_bytes_stop_it(bench, frames, prefix):
    bench.server.state.bad_messages = BadMessageLimit(burst=10**9)
    bench.server._take(b"me", [prefix + frames[0], *frames[1:]], 0)
    _, header, _ = bench.sent.pop()
    assert header.kind == Kind.ERROR and header.status != Status.INTERNAL


def test_a_peer_that_sends_rubbish_is_ignored_and_others_are_served(bench):
    for _ in range(100):
        bench.server._take(b"bad", [b"rubbish"], 0)
    assert [header.status for _, header, _ in bench.sent] == [Status.MALFORMED] * 51
    bench.sent.clear()
    bench.give(b"bad", 1)
    bench.give(b"good", 2)
    assert bench.answers() == [(b"good", 2, Status.OK)]


def test_an_observation_that_waits_longer_than_its_budget_is_late(bench):
    bench.give(b"a", 1, budget_us=5000, age_us=6000)
    assert bench.answers() == [(b"a", 1, Status.LATE)]
    bench.give(b"a", 2, budget_us=500_000)
    bench.give(b"b", 3, budget_us=0, age_us=10_000_000)
    assert bench.answers() == [(b"a", 2, Status.OK)]
    assert bench.answers() == [(b"b", 3, Status.OK)]


def test_late_requests_are_told_at_once_and_not_when_their_turn_comes(bench):
    for k in range(4):
        bench.give(bytes([k]), k, budget_us=5000 if k == 3 else 0, age_us=6000)
    assert bench.answers() == [(b"\3", 3, Status.LATE), (b"\0", 0, Status.OK)]


def test_a_late_request_takes_no_noise(bench, tiny):
    bench.give(b"a", 1, budget_us=1, age_us=10)
    bench.answers()
    bench.give(b"a", 2)
    bench.server._compute()
    action = np.frombuffer(bench.sent[-1][2], np.float32)
    noise = np.random.Generator(np.random.PCG64([0, 0])).standard_normal((1, 4), dtype=np.float32)
    np.testing.assert_allclose(
        action.reshape(1, 2, 2), tiny.expected_action(OBS[None], noise), atol=1e-6
    )


def test_the_newest_observation_of_a_session_replaces_its_queued_one(bench):
    bench.give(b"a", 1)
    bench.give(b"b", 2)
    bench.give(b"a", 3)
    bench.give(b"a", 4)
    assert bench.answers() == [
        (b"a", 1, Status.SUPERSEDED),
        (b"a", 3, Status.SUPERSEDED),
        (b"a", 4, Status.OK),
    ]
    assert bench.answers() == [(b"b", 2, Status.OK)]
    assert bench.answers() == []


def test_a_reset_drops_the_observation_of_the_episode_before(bench):
    bench.give(b"a", 1)
    bench.server._take(
        b"a", [wire.encode(Header(Kind.CONTROL, 0, 2), b'{"op": "reset", "seed": 1}')], 0
    )
    assert bench.answers() == [(b"a", 1, Status.SUPERSEDED), (b"a", 2, Status.OK)]
    assert not bench.server.state.scheduler


def test_a_full_queue_says_so(bench):
    for k in range(MAX_WAITING + 1):
        bench.give(b"%d" % k, k)
    assert bench.answers()[0] == (b"%d" % MAX_WAITING, MAX_WAITING, Status.OVERLOADED)
    bench.give(b"%d" % MAX_WAITING, 999)
    assert [bench.answers()[0][1] for _ in range(MAX_WAITING)][-1] == 999


def test_a_policy_s_nan_is_not_sent(bench):
    bench.server.state.policy.act = lambda n: np.full((n, 2, 2), np.nan, np.float32)
    bench.give(b"a", 1)
    bench.server._compute()
    _, header, payload = bench.sent[0]
    assert (header.status, b"NaN" in bytes(payload)) == (Status.INTERNAL, True)


@pytest.mark.parametrize("error", [ZeroDivisionError("/home/secret"), BackendError("secret")])
def test_a_failure_is_an_internal_error_without_its_text(bench, error):
    def fail(n):
        raise error

    act = bench.server.state.policy.act
    bench.server.state.policy.act = fail
    bench.give(b"a", 8)
    bench.server._compute()
    _, header, payload = bench.sent.pop()
    assert (header.status, header.sequence) == (Status.INTERNAL, 8)
    assert b"secret" not in bytes(payload)
    bench.server.state.policy.act = act
    bench.give(b"a", 9)
    assert bench.answers() == [(b"a", 9, Status.OK)]


def test_waiting_observations_are_computed_in_one_batch(tiny, tmp_path):
    bench = Bench(tiny.save(tmp_path / "b", sampler={"batch_sizes": [1, 4]}).path)
    rows = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    for k, obs in enumerate(rows):
        bench.give(b"%d" % k, k, obs=obs)
    bench.server._compute()
    assert [header.sequence for _, header, _ in bench.sent] == [0, 1, 2, 3]
    bench.server._compute()
    assert bench.server.state.counters.batches == {4: 1, 2: 1}
    for k, (_, _, payload) in enumerate(bench.sent):
        noise = np.random.Generator(np.random.PCG64([0, k])).standard_normal(
            (1, 4), dtype=np.float32
        )
        action = np.frombuffer(payload, np.float32).reshape(1, 2, 2)
        np.testing.assert_allclose(action, tiny.expected_action(rows[k : k + 1], noise), atol=1e-6)


def test_no_session_takes_more_turns_than_another(bench):
    served = []
    bench.give(b"slow", 0)
    for k in range(1, 30):
        bench.give(b"eager", k)
        bench.give(b"eager", k + 100)
        served += [identity for identity, _, status in bench.answers() if status == Status.OK]
        if served[-1] == b"slow":
            bench.give(b"slow", k)
    assert abs(served.count(b"slow") - served.count(b"eager")) <= 1


def test_busy_polling_comes_before_sleep(bundle_path, monkeypatch):
    server = PolicyServer(bundle_path, "tcp://127.0.0.1:*", "cpu", busy_poll_s=0.1)
    waits = []
    answers = [[], [], [(b"a", [b"first"])]]

    def receive(wait_s):
        waits.append(wait_s)
        return answers.pop(0) if answers else []

    monkeypatch.setattr(server.state.front, "receive", receive)
    assert server._receive(wait=False) == [] and waits == [0]
    assert server._receive(wait=True) == [(b"a", [b"first"])] and waits == [0, 0, 0]
    waits.clear()
    assert server._receive(wait=True) == []
    assert (
        len(waits) > 10 and set(waits[:-1]) == {0} and waits[-1] > 0
    )  # No message came, so it sleeps.
    waits.clear()
    # It polls no more until a message comes.
    assert server._receive(wait=True) == [] and waits == [waits[0]] and waits[0] > 0
    server.close()


def test_busy_polling_that_would_delay_the_end_is_refused(bundle_path):
    with pytest.raises(ValueError, match=r"expected 0 to 0\.1 s"):
        PolicyServer(bundle_path, "tcp://127.0.0.1:*", "cpu", busy_poll_s=1.0)
