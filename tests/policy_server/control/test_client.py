import time

import numpy as np
import pytest
from support.impostor import Impostor

from policy_server.contract import wire
from policy_server.contract.bundle import Bundle
from policy_server.contract.errors import PolicyError, PolicyTimeout
from policy_server.contract.wire import Header, Kind, Status
from policy_server.control.client import PolicyClient
from policy_server.transport import keys as security
from policy_server.transport.keys import ClientKeys

OBS = np.float32([0.1, -0.2, 0.01])


@pytest.fixture
def connect(bundle_path):
    """Makes clients that know the manifest already."""
    clients = []

    def make(endpoint, timeout_s=5.0):
        client = PolicyClient(endpoint, timeout_s)
        client._known.manifest = Bundle.load(bundle_path).manifest
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def chunk(header, value, **changes):
    header = header._replace(kind=Kind.ACT_REPLY, budget_us=0, **changes)
    return wire.encode(header, wire.float_bytes(np.full((2, 2), value)))


def test_server_absent_is_a_clear_timeout(connect):
    start = time.monotonic()
    with pytest.raises(
        PolicyTimeout, match=r"not connected to tcp://127.0.0.1:9 after \d+.*is the server running"
    ):
        connect("tcp://127.0.0.1:9", timeout_s=0.1).hello()
    assert time.monotonic() - start >= 0.1


def test_silence_ends_at_the_deadline(connect):
    with Impostor(lambda header: []) as server:
        client = connect(server.endpoint)
        start = time.monotonic()
        with pytest.raises(PolicyTimeout, match="no reply"):
            client.act(OBS, deadline_s=0.0335)
        assert time.monotonic() - start >= 0.0335


def test_stale_replies_are_dropped(connect):
    """The server keeps each answer back until the next request: every reply read first is stale."""
    kept = []

    def reply(header):
        kept.append(chunk(header, header.sequence))
        return kept[-2:] if len(kept) > 1 else []

    with Impostor(reply) as server:
        client = connect(server.endpoint)
        with pytest.raises(PolicyTimeout):
            client.act(OBS, deadline_s=0.1)
        for _ in range(3):
            np.testing.assert_array_equal(client.act(OBS), np.full((2, 2), client._sequence))


def test_a_stale_error_is_dropped_too(connect):
    def reply(header):
        stale = wire.encode(Header(Kind.ERROR, Status.LATE, header.sequence - 1), b"late")
        return [stale, chunk(header, 0.5)] if header.sequence > 1 else [chunk(header, 0.1)]

    with Impostor(reply) as server:
        client = connect(server.endpoint)
        client.act(OBS)
        np.testing.assert_array_equal(client.act(OBS), np.full((2, 2), np.float32(0.5)))


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (lambda header: chunk(header, np.nan), Status.NOT_FINITE),
        (
            lambda header: wire.encode(header._replace(kind=Kind.ACT_REPLY), bytes(12)),
            Status.BAD_LENGTH,
        ),
        (lambda header: b"garbage", Status.MALFORMED),
        (
            lambda header: wire.encode(Header(Kind.ERROR, Status.LATE, header.sequence), b"busy"),
            Status.LATE,
        ),
        (
            lambda header: wire.encode(Header(Kind.ERROR, 999, header.sequence), b"\xff"),
            Status.INTERNAL,
        ),
    ],
)
def test_unusable_replies_are_typed_errors(connect, reply, status):
    with Impostor(lambda header: [reply(header)]) as server:
        with pytest.raises(PolicyError) as caught:
            connect(server.endpoint).act(OBS)
        assert caught.value.status == status


def test_budget_and_times_travel(connect):
    seen = []

    def reply(header):
        seen.append(header)
        return [chunk(header, 0.5, queue_us=1, inference_us=2, server_us=3, valid_us=4)]

    with Impostor(reply) as server:
        client = connect(server.endpoint)
        client.act(OBS, deadline_s=0.25)
    assert seen[0].kind == Kind.ACT and seen[0].budget_us == 250_000
    times = client.last_times
    server_times = {"queue_us": 1, "inference_us": 2, "server_us": 3, "valid_us": 4}
    assert server_times.items() <= times.items()
    assert times["roundtrip_us"] > 0


def test_a_restarted_server_is_found_again(start_server, bundle_path, tmp_path):
    endpoint = f"ipc://{tmp_path}/s"
    first = start_server(bundle_path, endpoint)
    with PolicyClient(endpoint, timeout_s=20) as client:
        client.reset(1)
        before = client.act(OBS)
        first.process.kill()
        first.process.wait()
        with pytest.raises(PolicyTimeout):
            client.act(OBS, deadline_s=0.05)
        start_server(bundle_path, endpoint)
        client.reset(1)
        assert client.act(OBS).tobytes() == before.tobytes()


def test_nonsense_endpoint_is_refused():
    with pytest.raises(ValueError, match="expected tcp://HOST:PORT"):
        PolicyClient("nonsense")


@pytest.mark.parametrize(
    ("with_keys", "hint"),
    [
        (False, r"ignores clients without them \(--keys\)$"),
        (True, r"edp serve --keys\).*ignores clients whose key it does not know$"),
    ],
)
def test_the_error_of_a_missing_server_mentions_keys(tmp_path, with_keys, hint):
    security.make_keys(tmp_path, "robot-1")
    keys = ClientKeys.load(tmp_path / "private") if with_keys else None
    with (
        PolicyClient("tcp://127.0.0.1:9", 0.05, keys) as client,
        pytest.raises(PolicyTimeout, match=f"not connected to tcp://127.0.0.1:9 after .*{hint}"),
    ):
        client.send(OBS)


def test_the_policy_of_an_action_changes_with_a_reload(start_server, bundle_path, tiny, tmp_path):
    folder = tmp_path / "bundle"
    old = Bundle.load(bundle_path)
    folder.symlink_to(bundle_path)
    new = tiny.save(tmp_path / "new", name="tiny-2")
    server = start_server(folder)
    with PolicyClient(server.endpoint, timeout_s=20) as client:
        assert client.last_policy == wire.NO_POLICY

        def policy():
            client.act(OBS)
            return client.last_policy

        assert policy() == bytes.fromhex(old.hash)[:8]
        (tmp_path / "next").symlink_to(new.path)
        (tmp_path / "next").rename(folder)
        assert policy() == bytes.fromhex(old.hash)[:8]
        assert client.reload() == {"bundle_hash": new.hash, "previous_bundle_hash": old.hash}
        assert policy() == bytes.fromhex(new.hash)[:8] != bytes.fromhex(old.hash)[:8]
        assert client.health()["bundle_hash"] == client.stats()["bundle_hash"] == new.hash
        assert client.rollback() == {"bundle_hash": old.hash, "previous_bundle_hash": new.hash}
        assert policy() == bytes.fromhex(old.hash)[:8]
