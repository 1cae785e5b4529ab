"""Send now, use the answer at the next tick."""

import signal
from collections import deque

import numpy as np
import pytest

from policy_server.contract import wire
from policy_server.contract.bundle import Bundle
from policy_server.contract.errors import PolicyError
from policy_server.contract.wire import Header, Kind, Status
from policy_server.control.client import PolicyClient

OBS = np.float32([0.1, -0.2, 0.01])


class Script:
    """A link whose answers a test puts in by hand."""

    def __init__(self):
        self.frames = deque()

    def send(self, frame, deadline_ns):
        return True

    def receive(self, deadline_ns):
        return self.frames.popleft() if self.frames else None

    def close(self):
        pass

    def action(self, sequence):
        action = np.full((2, 2), sequence)
        self.frames.append(
            wire.encode(Header(Kind.ACT_REPLY, 0, sequence), wire.float_bytes(action))
        )

    def error(self, sequence, status):
        self.frames.append(wire.encode(Header(Kind.ERROR, status, sequence), b"no"))


@pytest.fixture
def scripted(bundle_path):
    """A client that has sent observations 1 to 4, and its link."""
    client = PolicyClient("tcp://127.0.0.1:9")
    client._known.manifest = Bundle.load(bundle_path).manifest
    client._link = Script()
    assert [client.send(OBS) for _ in range(4)] == [1, 2, 3, 4]
    return client, client._link


def which(client):
    """Returns the number of the request that the received action answers; None: no action."""
    action = client.receive()
    return None if action is None else int(action[0, 0])


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_the_newest_action_wins_and_the_others_never_come(scripted, order):
    client, link = scripted
    for sequence in order:
        link.action(sequence)
    assert (which(client), which(client)) == (3, None)
    link.action(2)
    assert which(client) is None
    link.action(2)
    link.action(4)
    assert (which(client), which(client)) == (4, None)


def test_the_newest_answers_error_is_raised_once(scripted):
    client, link = scripted
    link.action(1)
    link.error(2, Status.INTERNAL)
    with pytest.raises(PolicyError) as caught:
        client.receive()
    assert caught.value.status == Status.INTERNAL
    assert which(client) is None
    link.action(3)
    assert which(client) == 3


def test_the_error_of_an_older_answer_is_not_raised(scripted):
    client, link = scripted
    link.error(1, Status.LATE)
    link.action(2)
    link.error(1, Status.LATE)
    assert (which(client), which(client)) == (2, None)


def test_superseded_is_no_error(scripted):
    """A newer request is under way, and its answer comes."""
    client, link = scripted
    link.error(1, Status.SUPERSEDED)
    assert which(client) is None
    link.action(2)
    link.error(3, Status.SUPERSEDED)
    assert which(client) == 2
    link.action(4)
    assert which(client) == 4


def test_an_error_without_a_number_does_not_bring_old_actions_back(scripted):
    client, link = scripted
    link.action(3)
    assert which(client) == 3
    link.error(0, Status.MALFORMED)
    with pytest.raises(PolicyError, match="MALFORMED"):
        client.receive()
    link.action(2)
    assert which(client) is None


def test_an_answer_to_what_was_never_asked_does_not_deafen_the_client(scripted):
    client, link = scripted
    link.error(10**9, Status.INTERNAL)
    link.action(10**9)
    assert which(client) is None
    link.action(4)
    assert which(client) == 4


def test_act_and_reset_forget_what_was_sent_before(scripted):
    client, link = scripted
    link.action(4)
    link.action(5)
    assert int(client.act(OBS)[0, 0]) == 5
    client.send(OBS)
    link.frames.append(wire.encode(Header(Kind.CONTROL_REPLY, 0, 7), b"{}"))
    client.reset(1)
    link.action(6)
    assert which(client) is None


def test_a_server_computes_the_newest_of_what_was_sent(start_server, bundle_path, tiny):
    """Four observations wait for a stopped server. It computes the last one only."""
    server = start_server(bundle_path)
    with PolicyClient(server.endpoint, timeout_s=20) as client:
        client.hello()
        client.reset(3)
        server.process.send_signal(signal.SIGSTOP)
        for k in range(4):
            last = client.send(OBS * k)
        assert client.receive() is None
        server.process.send_signal(signal.SIGCONT)
        action = client.receive(wait_s=20)
        noise = np.random.Generator(np.random.PCG64(3)).standard_normal(
            (1, tiny.latent_dim), dtype=np.float32
        )
        np.testing.assert_allclose(action, tiny.expected_action(OBS[None] * 3, noise)[0], atol=1e-6)
        assert client._last[0].sequence == last and client.receive(wait_s=0.02) is None
        assert client.stats()["counts"]["SUPERSEDED"] == 3


def test_send_and_receive_one_tick_apart(served):
    with PolicyClient(served.endpoint, timeout_s=20) as client:
        client.reset(1)
        asked = [client.act(OBS) for _ in range(5)]
        client.reset(1)
        got = []
        for _ in range(5):
            client.send(OBS)
            got.append(client.receive(wait_s=20))
        assert np.array_equal(asked, got) and client.receive() is None
        assert client.last_times["roundtrip_us"] > client.last_times["server_us"] > 0
