"""Which clients a server with keys admits, on real sockets of libzmq."""

import contextlib
import socket
import time
from types import SimpleNamespace

import pytest
import zmq

from policy_server.contract.errors import ServerError
from policy_server.transport import curve_server
from policy_server.transport.curve_client import apply_client
from policy_server.transport.curve_server import CurveFront, Guard, apply_server
from policy_server.transport.keys import ClientKeys, KeysError, ServerKeys, make_keys

TIMEOUT_MS = 5000
REFUSED_MS = 300  # Several handshakes fit into it on loopback.


def connect(endpoint, keys=None):
    dealer = zmq.Context.instance().socket(zmq.DEALER)
    dealer.linger = 0
    dealer.immediate = 1
    dealer.reconnect_ivl = 20
    if keys:
        apply_client(dealer, keys)
    dealer.connect(endpoint)
    return dealer


def new_router(context, keys):
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    apply_server(router, keys)
    return router


@contextlib.contextmanager
def listening(keys, guarded=True, endpoint="tcp://127.0.0.1:*"):
    context = zmq.Context()
    guard = Guard(context, keys) if guarded else None
    router = new_router(context, keys)
    router.bind(endpoint)
    real_endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
    server = SimpleNamespace(router=router, guard=guard, endpoint=real_endpoint)
    try:
        yield server
    finally:
        server.router.close()
        if guard:
            guard.close()
        context.term()


def rebind(server, keys, timeout_s=5):
    """Replaces the server's socket by a new one on the same endpoint."""
    context = server.router.context
    server.router.close()
    server.router = new_router(context, keys)
    end_s = time.monotonic() + timeout_s
    while True:
        try:
            return server.router.bind(server.endpoint)
        except zmq.ZMQError:
            assert time.monotonic() < end_s
            time.sleep(0.01)


def talks(server, client, timeout_ms=TIMEOUT_MS):
    """Returns whether a message goes there and back."""
    if not client.poll(timeout_ms, zmq.POLLOUT):
        return False
    client.send(b"ping")
    if not server.router.poll(timeout_ms):
        return False
    server.router.send_multipart(server.router.recv_multipart())
    return bool(client.poll(timeout_ms)) and client.recv() == b"ping"


@pytest.fixture
def folder(tmp_path):
    make_keys(tmp_path / "keys", "robot-1")
    make_keys(tmp_path / "keys", "robot-2")
    return tmp_path / "keys"


@pytest.fixture
def served(folder):
    with listening(ServerKeys.load(folder)) as server:
        yield server


def client_keys(folder, name="robot-1"):
    return ClientKeys.load(folder / "private" / f"{name}.key_secret")


def test_the_right_keys_are_admitted(served, folder):
    for name in ("robot-1", "robot-2"):
        with connect(served.endpoint, client_keys(folder, name)) as client:
            assert talks(served, client)


def test_keys_work_over_ipc(folder, tmp_path):
    with listening(ServerKeys.load(folder), endpoint=f"ipc://{tmp_path}/s") as server:
        with connect(server.endpoint, client_keys(folder)) as client:
            assert talks(server, client)
        with connect(server.endpoint) as client:
            assert not talks(server, client, REFUSED_MS)


@pytest.mark.parametrize("fault", ["no keys", "unknown client", "wrong server"])
def test_wrong_keys_are_refused(served, folder, tmp_path, fault):
    make_keys(tmp_path / "other", "robot-1")
    mine = client_keys(folder)
    foreign = client_keys(tmp_path / "other")
    keys = {
        "no keys": None,
        "unknown client": ClientKeys(foreign.public, foreign.secret, mine.server),
        "wrong server": ClientKeys(mine.public, mine.secret, foreign.server),
    }[fault]
    with connect(served.endpoint, keys) as bad, connect(served.endpoint, mine) as good:
        assert not talks(served, bad, REFUSED_MS)
        assert talks(served, good)


def test_the_server_cannot_be_imitated(folder, tmp_path):
    """A server with other keys, which admits the robot's key, does not get its message."""
    make_keys(tmp_path / "evil")
    stolen = (folder / "clients/robot-1.key").read_bytes()
    (tmp_path / "evil/clients/robot-1.key").write_bytes(stolen)
    with (
        listening(ServerKeys.load(tmp_path / "evil")) as evil,
        connect(evil.endpoint, client_keys(folder)) as client,
    ):
        assert not talks(evil, client, REFUSED_MS)


def test_without_a_guard_no_client_is_admitted(folder):
    """ZeroMQ's own default is to admit every client."""
    with (
        listening(ServerKeys.load(folder), guarded=False) as server,
        connect(server.endpoint, client_keys(folder)) as client,
    ):
        assert not talks(server, client, REFUSED_MS)


def test_a_silent_connection_is_closed(folder, monkeypatch):
    monkeypatch.setattr(curve_server, "HANDSHAKE_MS", 200)
    with listening(ServerKeys.load(folder)) as server:
        host, port = server.endpoint.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), 10) as silent:
            said = b"".join(iter(lambda: silent.recv(4096), b""))
    assert (said[:1], said[9:10]) == (b"\xff", b"\x7f")
    assert len(said) <= 64  # The server's greeting, no more.


def test_a_removed_file_revokes_after_refresh(served, folder):
    keys = client_keys(folder)
    with connect(served.endpoint, keys) as connected:
        assert talks(served, connected)
        (folder / "clients/robot-1.key").unlink()
        assert served.guard.refresh() == ([], ["robot-1"], [])
        assert served.guard.refresh() == ([], [], [])
        with connect(served.endpoint, keys) as again:
            assert not talks(served, again, REFUSED_MS)
        assert talks(served, connected)  # Until the socket is closed.
    with connect(served.endpoint, client_keys(folder, "robot-2")) as other:
        assert talks(served, other)


def test_a_new_socket_ends_revoked_connections_and_the_others_come_back(folder):
    with listening(ServerKeys.load(folder)) as server:
        one = connect(server.endpoint, client_keys(folder, "robot-1"))
        two = connect(server.endpoint, client_keys(folder, "robot-2"))
        with one, two:
            assert talks(server, one) and talks(server, two)
            (folder / "clients/robot-1.key").unlink()
            assert server.guard.refresh().removed == ["robot-1"]
            rebind(server, ServerKeys.load(folder))
            # A message to the old socket is lost, so ask again.
            assert any(talks(server, two, 200) for _ in range(25))
            assert not any(talks(server, one, 100) for _ in range(3))


def test_a_new_file_admits_after_refresh(served, folder):
    make_keys(folder, "robot-3")
    with connect(served.endpoint, client_keys(folder, "robot-3")) as client:
        assert not talks(served, client, REFUSED_MS)
        assert served.guard.refresh() == (["robot-3"], [], [])
        with connect(served.endpoint, client_keys(folder, "robot-3")) as again:
            assert talks(served, again)


def test_a_damaged_file_does_not_keep_a_revoked_key_alive(served, folder):
    (folder / "clients/robot-1.key").unlink()
    (folder / "clients/robot-2.key").write_text("public-key = short")
    changes = served.guard.refresh()
    assert changes.removed == ["robot-1", "robot-2"]
    assert len(changes.faults) == 1 and "robot-2.key" in changes.faults[0]
    with pytest.raises(KeysError, match=r"robot-2\.key"):
        Guard(zmq.Context(), ServerKeys.load(folder))


def test_a_context_takes_one_guard(served, folder):
    with pytest.raises(ServerError, match=r"use a zmq\.Context for each"):
        Guard(served.router.context, ServerKeys.load(folder))


def test_a_front_without_keys_serves_where_there_is_no_epoll():
    front = CurveFront("tcp://127.0.0.1:*", None)
    with contextlib.closing(front), connect(front.endpoint) as client:
        client.send(b"ask")
        ((identity, frames),) = front.receive(5)
        assert frames == [b"ask"]
        assert front.send(identity, b"answer")
        assert client.poll(TIMEOUT_MS) and client.recv() == b"answer"
        assert not front.send(b"unknown", b"answer")


def test_an_endpoint_in_use_is_a_server_error():
    with (
        contextlib.closing(CurveFront("tcp://127.0.0.1:*", None)) as front,
        pytest.raises(ServerError, match="stop the other process or choose another --bind"),
    ):
        CurveFront(front.endpoint, None)
