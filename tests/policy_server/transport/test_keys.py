import contextlib
import socket
import stat
import time
from types import SimpleNamespace

import pytest
import zmq

from policy_server.transport import keys as security
from policy_server.transport.address import ServerError, check_bind
from policy_server.transport.keys import ClientKeys, Guard, KeysError, ServerKeys

TIMEOUT_MS = 5000
REFUSED_MS = 300  # several handshakes' time on loopback


def connect(endpoint, keys=None, context=None):
    dealer = (context or zmq.Context.instance()).socket(zmq.DEALER)
    dealer.linger = 0
    dealer.immediate = 1
    dealer.reconnect_ivl = 20
    if keys:
        security.apply_client(dealer, keys)
    dealer.connect(endpoint)
    return dealer


@contextlib.contextmanager
def listening(keys, guarded=True, endpoint="tcp://127.0.0.1:*"):
    context = zmq.Context()
    guard = Guard(context, keys) if guarded else None
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    security.apply_server(router, keys)
    router.bind(endpoint)
    server = SimpleNamespace(
        router=router, guard=guard, endpoint=router.getsockopt_string(zmq.LAST_ENDPOINT)
    )
    try:
        yield server
    finally:
        server.router.close()
        if guard:
            guard.close()
        context.term()


def talks(server, client, timeout_ms=TIMEOUT_MS):
    """Whether a message goes there and back."""
    if not client.poll(timeout_ms, zmq.POLLOUT):
        return False
    client.send(b"ping")
    if not server.router.poll(timeout_ms):
        return False
    server.router.send_multipart(server.router.recv_multipart())
    return bool(client.poll(timeout_ms)) and client.recv() == b"ping"


@pytest.fixture
def folder(tmp_path):
    security.make_keys(tmp_path / "keys", "robot-1")
    security.make_keys(tmp_path / "keys", "robot-2")
    return tmp_path / "keys"


@pytest.fixture
def served(folder):
    with listening(ServerKeys.load(folder)) as server:
        yield server


def client_keys(folder, name="robot-1"):
    return ClientKeys.load(folder / "private" / f"{name}.key_secret")


def test_the_folder(folder):
    files = {
        str(file.relative_to(folder)): stat.S_IMODE(file.stat().st_mode)
        for file in folder.rglob("*.key*")
    }
    private = {
        "server.key_secret": 0o600,
        "private/robot-1.key_secret": 0o600,
        "private/robot-2.key_secret": 0o600,
    }
    assert files == {
        **private,
        "server.key": 0o644,
        "clients/robot-1.key": 0o644,
        "clients/robot-2.key": 0o644,
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not [path for path in folder.rglob("*") if path.is_file() and "key" not in path.name]
    for file in folder.rglob("*.key"):
        assert "secret-key" not in file.read_text()
    secret = ServerKeys.load(folder).secret.decode()
    assert secret not in repr(ServerKeys.load(folder)) and client_keys(
        folder
    ).secret.decode() not in repr(client_keys(folder))


def test_nothing_is_overwritten(folder):
    before = {file: file.read_bytes() for file in folder.rglob("*.key*")}
    with pytest.raises(KeysError, match=r"robot-1\.key_secret exists and is not overwritten"):
        security.make_keys(folder, "robot-1")
    (folder / "private" / "robot-1.key_secret").unlink()  # carried to the robot
    with pytest.raises(KeysError, match=r"robot-1\.key exists and is not overwritten"):
        security.make_keys(folder, "robot-1")
    assert security.make_keys(folder) == []
    assert {file: file.read_bytes() for file in folder.rglob("*.key*")}.items() <= before.items()


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "server", "a b", "a\n", "x" * 65])
def test_names_are_plain_file_names(tmp_path, name):
    with pytest.raises(KeysError, match="expected letters, digits"):
        security.make_keys(tmp_path / "keys", name)
    assert not (tmp_path / "keys").exists()


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
    security.make_keys(tmp_path / "other", "robot-1")
    mine, foreign = client_keys(folder), client_keys(tmp_path / "other")
    keys = {
        "no keys": None,
        "unknown client": ClientKeys(foreign.public, foreign.secret, mine.server),
        "wrong server": ClientKeys(mine.public, mine.secret, foreign.server),
    }[fault]
    with connect(served.endpoint, keys) as bad, connect(served.endpoint, mine) as good:
        assert not talks(served, bad, REFUSED_MS)
        assert talks(served, good)  # the server still serves the others


def test_the_server_cannot_be_imitated(folder, tmp_path):
    """A server with other keys, which admits the robot's key, does not get its message."""
    security.make_keys(tmp_path / "evil")
    (tmp_path / "evil/clients/robot-1.key").write_bytes(
        (folder / "clients/robot-1.key").read_bytes()
    )
    with (
        listening(ServerKeys.load(tmp_path / "evil")) as evil,
        connect(evil.endpoint, client_keys(folder)) as client,
    ):
        assert not talks(evil, client, REFUSED_MS)


def test_without_a_guard_nobody_gets_in(folder):
    """ZeroMQ's own default would be to let everybody in."""
    with (
        listening(ServerKeys.load(folder), guarded=False) as server,
        connect(server.endpoint, client_keys(folder)) as client,
    ):
        assert not talks(server, client, REFUSED_MS)


def test_a_connection_that_says_nothing_is_closed(folder, monkeypatch):
    monkeypatch.setattr(security, "HANDSHAKE_MS", 200)
    with listening(ServerKeys.load(folder)) as server:
        host, port = server.endpoint.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), 10) as silent:
            said = b"".join(
                iter(lambda: silent.recv(4096), b"")
            )  # until the end, which comes or times out
    assert (said[:1], said[9:10]) == (b"\xff", b"\x7f") and len(
        said
    ) <= 64  # the server's greeting, no more


def test_a_removed_file_revokes_after_refresh(served, folder):
    keys = client_keys(folder)
    with connect(served.endpoint, keys) as connected:
        assert talks(served, connected)
        (folder / "clients/robot-1.key").unlink()
        assert served.guard.refresh() == ([], ["robot-1"], [])
        assert served.guard.refresh() == ([], [], [])
        with connect(served.endpoint, keys) as again:
            assert not talks(served, again, REFUSED_MS)
        assert talks(served, connected)  # until the socket is closed: Guard says so
    with connect(served.endpoint, client_keys(folder, "robot-2")) as other:
        assert talks(served, other)


def test_closing_the_socket_ends_revoked_connections_and_the_others_come_back(folder):
    with listening(ServerKeys.load(folder)) as server:
        one, two = (
            connect(server.endpoint, client_keys(folder, name)) for name in ("robot-1", "robot-2")
        )
        assert talks(server, one) and talks(server, two)
        (folder / "clients/robot-1.key").unlink()
        assert server.guard.refresh().removed == ["robot-1"]
        rebind(server, ServerKeys.load(folder))
        # what was sent to the old socket is lost, so ask again
        assert any(talks(server, two, 200) for _ in range(25))
        assert not any(talks(server, one, 100) for _ in range(3))
        one.close(), two.close()


def rebind(server, keys, timeout_s=5):
    context = server.router.context
    server.router.close()
    server.router = context.socket(zmq.ROUTER)
    server.router.linger = 0
    security.apply_server(server.router, keys)
    end = time.monotonic() + timeout_s
    while True:
        try:
            return server.router.bind(server.endpoint)
        except zmq.ZMQError:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_new_file_admits_after_refresh(served, folder):
    security.make_keys(folder, "robot-3")
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


def test_one_guard_a_context(served, folder):
    with pytest.raises(ServerError, match=r"use a zmq\.Context for each"):
        Guard(served.router.context, ServerKeys.load(folder))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_secrets_that_others_can_read_are_refused(folder, mode):
    for file, load in (
        ("server.key_secret", ServerKeys.load),
        ("private/robot-1.key_secret", client_keys),
    ):
        (folder / file).chmod(mode)
        with pytest.raises(KeysError, match=rf"mode {mode:04o}\); run: chmod 600 .*{file}"):
            load(folder)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(KeysError, match=r"server\.key_secret.*edp keys new"):
        ServerKeys.load(tmp_path)
    with pytest.raises(KeysError, match=r"robot-1\.key_secret, robot-2\.key_secret; expected one"):
        ClientKeys.load(folder / "private")
    with pytest.raises(KeysError, match="secrets: none"):
        ClientKeys.load(folder)
    (folder / "server.key").unlink()
    with pytest.raises(KeysError, match=r"no server\.key beside"):
        client_keys(folder)


def test_the_robots_own_folder(folder, tmp_path):
    robot = tmp_path / "robot"
    robot.mkdir()
    for file in ("private/robot-1.key_secret", "server.key"):
        (robot / file.split("/")[-1]).write_bytes((folder / file).read_bytes())
    (robot / "robot-1.key_secret").chmod(0o600)
    assert ClientKeys.load(robot) == client_keys(folder)
    assert ClientKeys.load(robot).server == ServerKeys.load(folder).public


def test_pairs_that_do_not_belong_together_are_refused(folder):
    one, two = (folder / f"private/robot-{n}.key_secret" for n in (1, 2))
    public = client_keys(folder, "robot-2").public.decode()
    one.write_text(one.read_text().replace(client_keys(folder).public.decode(), public))
    with pytest.raises(KeysError, match="do not belong together"):
        ClientKeys.load(one)
    two.write_text((folder / "server.key").read_text())
    with pytest.raises(KeysError, match="no secret key"):
        ClientKeys.load(two)


@pytest.mark.parametrize(
    "endpoint", ["tcp://0.0.0.0:5599", "tcp://*:5599", "tcp://[::]:1", "tcp://eth0:1"]
)
def test_off_loopback_wants_keys(endpoint):
    with pytest.raises(ServerError, match=r"edp keys new DIR.*--keys DIR"):
        check_bind(endpoint)
    check_bind(endpoint, has_keys=True)
    check_bind("tcp://127.0.0.1:1", has_keys=True)
    with pytest.raises(ServerError, match="expected tcp"):
        check_bind("udp://x:1", has_keys=True)
