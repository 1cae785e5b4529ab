"""A front against raw sockets and libzmq. Bad peers are in test_plain_server_strangers.py."""

import contextlib
import itertools
import resource
import socket
import threading
import time

import pytest
import zmq
from support.raw_zmtp import GREETING, ROUTER_READY, Raw, check_serves, met, pump

from policy_server.contract import wire
from policy_server.contract.errors import ServerError
from policy_server.transport import plain_server as plain_front
from policy_server.transport import zmtp
from policy_server.transport.plain_server import MAX_UNSENT, PlainFront


@pytest.fixture
def dealer():
    """Makes libzmq sockets, DEALERs by default."""
    context = zmq.Context()

    def make(front, kind=zmq.DEALER, **options):
        own = context.socket(kind)
        for name, value in {"LINGER": 0, **options}.items():
            own.setsockopt(getattr(zmq, name), value)
        own.connect(front.endpoint)
        return own

    yield make
    context.destroy(linger=0)


def test_the_handshake_to_the_byte(front):
    peer = Raw(front, hello=False)
    assert peer.read(64) == GREETING
    peer.socket.sendall(GREETING + zmtp.ready(b"DEALER", b"robot"))
    assert peer.read(len(ROUTER_READY)) == ROUTER_READY
    check_serves(front, peer, b"robot")


def test_a_handshake_and_messages_byte_by_byte(front):
    peer = Raw(front, hello=False)
    messages = []
    data = GREETING + zmtp.ready(b"DEALER", b"slow") + zmtp.frame(b"one") + zmtp.frame(bytes(300))
    for byte in data:
        peer.socket.sendall(bytes([byte]))
        messages += front.receive(0)
    messages += pump(front, lambda got: len(messages) + len(got) == 2)
    assert messages == [(b"slow", [b"one"]), (b"slow", [bytes(300)])]


def test_everything_in_one_piece(front):
    peer = Raw(front, hello=False)
    peer.socket.sendall(
        GREETING + zmtp.ready(b"DEALER", b"fast") + zmtp.frame(b"one") + zmtp.frame(b"two")
    )
    assert pump(front, lambda got: len(got) == 2) == [(b"fast", [b"one"]), (b"fast", [b"two"])]


def test_peers_without_a_routing_id_get_different_ones(ipc):
    """A routing id that begins with 0 or is too long is replaced, so that none is taken."""
    names = [b"", b"", b"\0" + (1).to_bytes(8, "big"), b"n" * 256]
    peers = [Raw(ipc) for _ in names[:2]] + [Raw(ipc, hello=False) for _ in names[2:]]
    for peer, name in zip(peers[2:], names[2:], strict=True):
        peer.socket.sendall(GREETING + zmtp.ready(b"DEALER", name))
    for number, peer in enumerate(peers):
        peer.send(bytes([number]))
    messages = pump(ipc, lambda got: len(got) == 4)
    given_ = {frames[0]: identity for identity, frames in messages}
    assert len(set(given_.values())) == 4
    assert all(identity[0] == 0 and len(identity) == 9 for identity in given_.values())
    for number, peer in enumerate(peers):
        assert ipc.send(given_[bytes([number])], bytes([number]))
        assert peer.read(64 + len(ROUTER_READY) + 3)[-1] == number


def test_libzmq_dealers_talk(front, dealer):
    sizes = [0, 1, 255, 256, 70_000, wire.MAX_FRAME_BYTES]
    own = dealer(front, ROUTING_ID=b"robot")
    for size in sizes:
        own.send(bytes([size % 251]) * size)
    messages = pump(front, lambda got: len(got) == len(sizes))
    assert messages == [(b"robot", [bytes([size % 251]) * size]) for size in sizes]
    for _, (body,) in messages:
        assert front.send(b"robot", body)
        pump(front, lambda got: own.poll(0))
        assert own.recv() == body
    assert not front.send(b"absent", b"")


def test_libzmq_dealers_with_heartbeats_stay_while_idle(front, dealer):
    """Without a PONG within 60 ms libzmq ends the connection. The test lasts 480 ms."""
    own = dealer(
        front, ROUTING_ID=b"idle", HEARTBEAT_IVL=20, HEARTBEAT_TIMEOUT=60, HEARTBEAT_TTL=60
    )
    events = own.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    own.send(b"hello")
    pump(front, len)
    until_s = time.monotonic() + 0.48
    assert pump(front, lambda got: time.monotonic() > until_s) == []
    assert not events.poll(0)
    assert front.send(b"idle", b"still here")
    assert own.poll(5000) and own.recv() == b"still here"
    own.disable_monitor()


def test_a_req_socket_sends_a_delimiter_first(front, dealer):
    """The front hands over both frames, so that the server can answer MALFORMED."""
    own = dealer(front, zmq.REQ, ROUTING_ID=b"req")
    own.send(b"ask")
    assert pump(front, len) == [(b"req", [b"", b"ask"])]
    assert front.send(b"req", b"answer")
    assert len(front._peers) == 1


def test_a_second_connection_with_a_routing_id_takes_over(front):
    old = Raw(front, b"robot")
    old.send(b"half", zmtp.MORE)
    new = Raw(front, b"robot", hello=False)
    new.socket.sendall(GREETING + zmtp.ready(b"DEALER", b"robot"))
    assert new.read(64 + len(ROUTER_READY)) == GREETING + ROUTER_READY
    assert old.ended()
    assert len(front._peers) == len(front._routes) == 1
    check_serves(front, new, b"robot")
    old.socket.close()
    assert front.receive(0) == []
    check_serves(front, new, b"robot")


def test_a_peer_that_reads_late_gets_every_byte(ipc):
    peer = Raw(ipc, b"late")
    sent = b""
    assert peer.read(64 + len(ROUTER_READY)) == GREETING + ROUTER_READY
    for number in itertools.count():
        body = bytes([number % 256]) * 5000
        if not ipc.send(b"late", body):
            break
        sent += zmtp.frame(body)
    assert peer.read(len(sent)) == sent
    check_serves(ipc, peer, b"late")


@pytest.mark.parametrize("limit", ["peers", "descriptors"])
def test_no_more_peers_than_there_is_room_for(tmp_path, monkeypatch, limit):
    if limit == "peers":
        monkeypatch.setattr(plain_front, "MAX_PEERS", 3)
    else:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (plain_front._SPARE_FDS + 3,) * 2)
    with contextlib.closing(PlainFront(f"ipc://{tmp_path}/f")) as front:
        peers = [Raw(front, b"%d" % number) for number in range(3)]
        assert Raw(front, hello=False).read(1) == b""
        assert len(front._peers) == 3
        peers[0].socket.close()
        pump(front, lambda got: len(front._peers) == 2)
        check_serves(front, met(Raw(front, b"new")), b"new")
        check_serves(front, met(peers[1]), b"1")


def test_the_path_of_a_killed_server_is_taken_over_and_given_back(tmp_path):
    path = tmp_path / "f"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
    assert path.exists()
    with contextlib.closing(PlainFront(f"ipc://{path}")) as front:
        check_serves(front, met(Raw(front, b"robot")), b"robot")
    assert not path.exists()
    front.close()


@pytest.mark.parametrize(
    "endpoint", ["tcp://127.0.0.1:http", "tcp://127.0.0.1:70000", "udp://a:1", "ipc:///no/such/f"]
)
def test_an_endpoint_that_cannot_be_bound_is_a_server_error(endpoint):
    with pytest.raises(ServerError, match="cannot listen on"):
        PlainFront(endpoint)


def test_an_address_in_use_is_a_server_error():
    with (
        contextlib.closing(PlainFront("tcp://127.0.0.1:*")) as front,
        pytest.raises(ServerError, match="stop the other process"),
    ):
        PlainFront(front.endpoint)


def _fill(front, identity):
    """Returns what was sent to a peer that does not read until MAX_UNSENT waits for it."""
    sent = b""
    body = bytes(range(250)) * 40
    while front.send(identity, body):
        sent += zmtp.frame(body)
    return sent


def test_close_lets_the_replies_to_all_readers_leave(ipc):
    """One peer never reads. The other one reads slowly and gets everything."""
    never = Raw(ipc, b"never")
    late = met(Raw(ipc, b"late"))
    got = []
    never_reads = _fill(ipc, b"never")
    sent = _fill(ipc, b"late")
    assert len(never_reads) > MAX_UNSENT < len(sent)

    def read():
        late.socket.settimeout(5)
        while more := late.socket.recv(30_000):
            got.append(more)
            time.sleep(0.015)

    reader = threading.Thread(target=read)
    reader.start()
    ipc.close(1.0)
    reader.join()
    assert b"".join(got) == sent
    assert never.ended()


def test_close_does_not_wait_for_a_peer_that_never_reads(ipc):
    peer = Raw(ipc, b"never")
    _fill(ipc, b"never")
    start_s = time.monotonic()
    ipc.close(0.1)
    assert 0.1 <= time.monotonic() - start_s < 2
    assert peer.ended() and not ipc.send(b"never", b"")
