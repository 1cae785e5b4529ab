"""Policies with memory: each session its own, emptied with the episode, and never lost in silence.

The policy answers the first observation of its episode and the sum of all (support/remembering.py),
so that a wrong memory shows in the answer.
"""

import os
import signal
from typing import ClassVar

import numpy as np
import pytest
from support import remembering
from support.checked_client import until
from support.serving import running_server

from policy_server import MemoryLost, PolicyError, PolicyTimeout
from policy_server.contract import wire
from policy_server.contract.errors import ServerError
from policy_server.contract.wire import Header, Kind, Status
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy
from policy_server.control.loop import ControlConfig, run
from policy_server.runtime.base import load_backend
from policy_server.serving import server as servers
from policy_server.serving.server import PolicyServer
from policy_server.serving.sessions import Sessions
from policy_server.transport.keys import ClientKeys, make_keys


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return remembering.save_bundle(tmp_path_factory.mktemp("memory") / "bundle").path


@pytest.fixture(scope="module")
def endpoint(bundle):
    with running_server(bundle) as server:
        yield server.endpoint


def played(policy, observations):
    """Returns the answers to an episode's observations, one after the other."""
    return np.stack([policy.act(np.float32([x]), deadline_s=5.0) for x in observations])


def reconnected(client):
    """Returns True when the client is connected to the server again."""
    try:
        return bool(client.health())
    except PolicyTimeout:
        return False


def assert_remembers(policy, observations):
    np.testing.assert_allclose(
        played(policy, observations), remembering.answers(observations), rtol=1e-5
    )


def test_a_policy_remembers_its_episode_and_reset_begins_another(bundle, endpoint):
    with PolicyClient(endpoint) as client, LocalPolicy(bundle, "cpu") as local:
        for policy in (client, local):
            policy.reset(0)
            assert_remembers(policy, [3.0, 1.0, -5.0])
            policy.reset()
            assert_remembers(policy, [7.0, 1.0])


def test_interleaved_sessions_do_not_mix(endpoint):
    with PolicyClient(endpoint) as first, PolicyClient(endpoint) as second:
        ones = np.arange(1.0, 21.0)
        tens = 10 * ones
        for n in range(1, 21):
            a = first.act(np.float32([ones[n - 1]]))
            b = second.act(np.float32([tens[n - 1]]))
            np.testing.assert_allclose(a, remembering.answers(ones[:n])[-1])
            np.testing.assert_allclose(b, remembering.answers(tens[:n])[-1])


def test_a_server_with_keys_remembers_alike(bundle, tmp_path):
    keys = tmp_path / "keys"
    make_keys(keys, "robot-1")
    with (
        running_server(bundle, options=("--keys", str(keys))) as server,
        PolicyClient(server.endpoint, 5.0, ClientKeys.load(keys / "private")) as client,
    ):
        assert_remembers(client, [3.0, 1.0])
        client.reset()
        assert_remembers(client, [4.0, 1.0])


class Bench:
    """A server without sockets. It says what each request was answered."""

    def __init__(self, bundle):
        self.server = PolicyServer(bundle, "tcp://127.0.0.1:*", "cpu")
        self.server.close()
        self.sent = []
        self.server.state.send = lambda identity, frame: self.sent.append(
            (identity, *wire.decode(frame))
        )

    def give(self, identity, x, **header):
        frame = wire.encode(Header(Kind.ACT, **header), wire.float_bytes([x]))
        age_ns = 1_000_000 if header else 0
        self.server._take(identity, [frame], servers.time.monotonic_ns() - age_ns)

    def ask(self, identity, **request):
        self.server._take(
            identity, [wire.encode(Header(Kind.CONTROL), wire.json_bytes(request))], 0
        )
        self.sent.clear()

    def answers(self):
        """Computes a batch. Returns (who, first and sum) or (who, status) for each answer."""
        self.server._compute()
        sent = list(self.sent)
        self.sent.clear()
        return [
            (who, *np.frombuffer(payload, np.float32), header.n_seen)
            if header.kind == Kind.ACT_REPLY
            else (who, Status(header.status))
            for who, header, payload in sent
        ]


@pytest.fixture
def bench(bundle):
    return Bench(bundle)


def test_a_batch_mixes_sessions_whose_episodes_have_different_lengths(bench):
    bench.give(b"a", 1.0)
    assert bench.answers() == [(b"a", 1.0, 1.0, 1)]
    for who, x in ((b"a", 2.0), (b"b", 30.0), (b"c", 400.0)):
        bench.give(who, x)
    assert bench.answers() == [(b"a", 1.0, 3.0, 2), (b"b", 30.0, 30.0, 1), (b"c", 400.0, 400.0, 1)]
    bench.ask(b"b", op="reset", seed=None)
    for who, x in ((b"c", 1.0), (b"b", 5.0), (b"a", 1.0)):
        bench.give(who, x)
    assert bench.answers() == [(b"c", 400.0, 401.0, 2), (b"b", 5.0, 5.0, 1), (b"a", 1.0, 4.0, 3)]


def test_only_what_is_computed_enters_the_memory(bench):
    bench.give(b"a", 1.0)
    bench.answers()
    bench.give(b"a", 100.0)  # superseded
    bench.give(b"a", 2.0)
    assert bench.answers() == [(b"a", Status.SUPERSEDED), (b"a", 1.0, 3.0, 2)]
    bench.give(b"a", 100.0, budget_us=1)  # late
    assert bench.answers() == [(b"a", Status.LATE)]
    bench.give(b"a", 4.0)
    bench.ask(b"a", op="reset", seed="no")  # refused: the episode goes on
    assert bench.answers() == [(b"a", 1.0, 7.0, 3)]


def test_an_answer_that_is_not_finite_leaves_the_memory_as_it_was(bench):
    policy = bench.server.state.policy
    run = policy.act

    def sometimes_infinite(n):
        action = run(n)
        policy.states(n)[1][0] = np.inf
        return action

    bench.give(b"a", 1.0)
    bench.answers()
    policy.act = sometimes_infinite
    bench.give(b"a", 50.0)
    assert bench.answers() == [(b"a", Status.INTERNAL)]
    policy.act = run
    bench.give(b"a", 2.0)
    assert bench.answers() == [(b"a", 1.0, 3.0, 2)]


def test_hello_and_another_policy_empty_the_memory_and_the_same_policy_does_not(bench, tmp_path):
    bench.give(b"a", 1.0)
    bench.answers()
    state = bench.server.state
    state.use(state.policy)
    bench.give(b"a", 1.0)
    assert bench.answers() == [(b"a", 1.0, 2.0, 2)]
    bench.ask(b"a", op="hello")
    bench.give(b"a", 3.0)
    assert bench.answers() == [(b"a", 3.0, 3.0, 1)]
    wider = remembering.save_bundle(tmp_path / "wider", factor=2.0, extra=2)
    other = servers.ServedPolicy(wider.path, "cpu")
    other.check_replaces(state.policy)
    state.use(other)
    bench.give(b"a", 3.0)
    assert bench.answers() == [(b"a", 6.0, 6.0, 1)]


def test_an_evicted_session_comes_back_with_an_empty_memory():
    sessions = Sessions(seed=0, limit=1)
    sessions.get(b"a", 0).memory.advance(np.ones(3, np.float32))
    sessions.get(b"b", 1)
    assert sessions.get(b"a", 2).memory.n_seen == 0


def test_a_killed_server_in_mid_episode_is_an_error_until_reset(bundle):
    with running_server(bundle) as server:
        client = PolicyClient(server.endpoint, 10.0)
        assert_remembers(client, [3.0, 1.0, 1.0])
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
    with client, running_server(bundle, server.endpoint):
        until(lambda: reconnected(client))
        for _ in range(5):  # also when the new memory is longer than the old one was
            with pytest.raises(MemoryLost, match=r"forgot the episode.*held \d+ .*reset"):
                client.act(np.float32([1.0]))
        client.reset()
        assert_remembers(client, [9.0, 1.0])


def test_a_loss_counts_though_its_answers_were_dropped(bundle):
    """The new memory grows past the old one in answers that come too late."""
    with running_server(bundle) as server:
        client = PolicyClient(server.endpoint, 10.0)
        assert_remembers(client, [3.0, 1.0])
        server.process.kill()
        server.process.wait()
    with client, running_server(bundle, server.endpoint):
        until(lambda: reconnected(client))
        for _ in range(3):
            client.send(np.float32([1.0]))
            client.health()  # drops the answer, which came before
        with pytest.raises(MemoryLost):
            client.act(np.float32([1.0]))


@pytest.fixture
def two(tmp_path):
    """A link to one of two bundles, and a function that turns it to the other."""
    link = tmp_path / "current"
    first, second = (
        remembering.save_bundle(tmp_path / name, factor, extra=extra).path
        for name, factor, extra in (("a", 1.0, 0), ("b", 2.0, 4))
    )
    link.symlink_to(first)

    def turn():
        link.unlink()
        link.symlink_to(second)

    return link, turn


def test_a_reload_of_another_policy_is_told_to_the_robot(two):
    link, turn = two
    with running_server(link) as server, PolicyClient(server.endpoint, 10.0) as client:
        assert_remembers(client, [3.0, 1.0])
        client.reload()  # the same policy: the episode goes on
        np.testing.assert_allclose(client.act(np.float32([1.0])), [[3.0, 5.0]])
        turn()
        client.reload()
        with pytest.raises(MemoryLost):
            client.act(np.float32([1.0]))
        client.reset()
        np.testing.assert_allclose(client.act(np.float32([1.0])), [[2.0, 2.0]])


class Still:
    """A robot that always sees 1 and does not move."""

    observation_features: ClassVar = {"x": float}
    action_features: ClassVar = {"first": float, "sum": float}

    def __init__(self):
        self.sent = []

    def connect(self):
        pass

    def disconnect(self):
        pass

    def get_observation(self):
        return {"x": 1.0}

    def send_action(self, action):
        self.sent.append(action["sum"])


def test_a_robot_begins_with_an_empty_memory_and_stops_where_it_is_lost(two):
    link, turn = two
    robot = Still()
    with (
        running_server(link) as server,
        PolicyClient(server.endpoint, 10.0) as other,
        PolicyClient(server.endpoint, 10.0) as client,
    ):
        client.act(np.float32([50.0]))  # an episode before

        def reload(tick, obs, target):
            if len(robot.sent) == 3:
                turn()
                other.reload()

        config = ControlConfig(
            10**6, 0.005, act_deadline_s=5.0, start_action=(0.0, 0.0), max_silence_s=0.1
        )
        report = run(robot, client, config, reload)
    assert report.error is not None
    assert "forgot the episode: its memory held 3" in report.error
    eased = [k / 200 * k for k in (1, 2, 3)]  # the sums 1, 2, 3; without a rate, over 1 s
    assert robot.sent[:3] == pytest.approx(eased)
    assert set(robot.sent[3:]) == {robot.sent[2]}  # the last safe target


def test_hello_in_mid_episode_asks_for_a_reset(endpoint):
    """So that a client that says hello by itself cannot hide a loss."""
    with PolicyClient(endpoint, 5.0) as client:
        client.hello()
        assert_remembers(client, [3.0, 1.0])
        client.hello()
        with pytest.raises(MemoryLost, match="told hello"):
            client.act(np.float32([1.0]))
        client.reset()
        assert_remembers(client, [4.0, 1.0])


def test_an_answer_that_the_client_gave_up_on_is_in_the_memory(endpoint):
    with PolicyClient(endpoint, 5.0) as client:
        client.reset()
        client.act(np.float32([1.0]))
        client.send(np.float32([10.0]))
        client.health()  # the answer is dropped
        np.testing.assert_allclose(client.act(np.float32([100.0])), [[1.0, 111.0]])


def test_a_policy_without_memory_is_as_before(served, bundle_path):
    with PolicyClient(served.endpoint, 5.0) as client:
        client.act(np.float32([0.1, 0.2, 0.01]))
        assert client._last is not None
        header, _ = client._last
        assert (header.n_seen, client._memory._n_seen) == (0, None)
    manifest = load_backend(bundle_path, "cpu").manifest
    assert not {"state_dim", "history"} & set(manifest.to_dict())
    assert manifest.to_dict()["schema_version"] == 1


def test_an_interface_that_differs_is_still_refused(bench, tmp_path):
    slower = remembering.save_bundle(tmp_path / "slower", control_period_s=0.5)
    with pytest.raises(ServerError, match="control_period_s"):
        servers.ServedPolicy(slower.path, "cpu").check_replaces(bench.server.state.policy)


def test_a_bad_observation_does_not_touch_the_memory(bundle):
    with LocalPolicy(bundle, "cpu") as policy:
        assert_remembers(policy, [3.0])
        for wrong in ([np.nan], [1.0, 2.0]):
            with pytest.raises(PolicyError):
                policy.act(np.float32(wrong))
        np.testing.assert_allclose(policy.act(np.float32([1.0])), [[3.0, 4.0]])
