"""A link whose server is absent, restarts, is silent or does not read, and libzmq as the server."""

import contextlib
import os
import select
import socket
import threading
import time

import pytest
import zmq
from support.raw_zmtp import (
    ANSWER,
    ASK,
    LONG_S,
    Server,
    check_answers,
    greet,
    listening,
    meet,
    pump,
    read,
    until_closed,
    within,
)

from policy_server.contract import wire
from policy_server.transport import plain_client as plain_link
from policy_server.transport import zmtp
from policy_server.transport.plain_client import BACK_OFF_S, PlainLink
from policy_server.transport.plain_server import PlainFront

PING = zmtp.command(b"PING", b"\0\0ctx")
PONG = zmtp.command(b"PONG", b"ctx")


def test_a_server_that_comes_late(wanted):
    with listening(wanted) as (_, endpoint):
        pass
    with contextlib.closing(PlainLink(endpoint, b"me")) as link:
        start_s = time.monotonic()
        assert not link.send(b"stale", within(0.1))
        assert 0.1 <= time.monotonic() - start_s < 1.5
        assert link.receive(within(LONG_S)) is None  # At once: no server could answer.
        with listening(endpoint) as (listener, _):
            server = Server(listener, [meet])  # `meet` fails on a stale request.
            check_answers(link)
            server.check()
        assert time.monotonic() - start_s < LONG_S / 2


def test_a_server_that_goes_and_comes_back(wanted):
    with contextlib.ExitStack() as stack:
        endpoint = wanted
        link = None
        for _ in range(3):
            with listening(endpoint) as (listener, endpoint):
                link = link or stack.enter_context(contextlib.closing(PlainLink(endpoint, b"me")))
                server = Server(listener, [meet])
                while not link.send(b"ask", within(LONG_S)) or link.receive(within(LONG_S)) is None:
                    pass  # The connection to the server before is lost.
                server.check()


def test_attempts_get_rarer_up_to_a_bound_until_one_succeeds(start):
    """Attempts after 0, 20, 60, 140 and 300 ms: 5 at most in 0.5 s, then one each 0.5 s."""
    server, link = start(*[lambda conn: None] * 5, meet)
    start_s = time.monotonic()
    assert not link.send(b"ask", within(0.5))
    assert time.monotonic() - start_s < 2
    assert 2 <= server.n_accepted <= 5
    assert BACK_OFF_S[0] < link._back_off_s <= BACK_OFF_S[1]
    check_answers(link)
    assert link._back_off_s == BACK_OFF_S[0]
    server.check()


def test_a_connection_to_a_silent_server_ends(start, monkeypatch):
    """A server that owes an answer and is silent for SILENCE_S may have lost its power."""
    monkeypatch.setattr(plain_link, "SILENCE_S", 0.1)
    server, link = start(lambda conn: (greet(conn), until_closed(conn)), meet)
    assert link.send(b"ask", within(LONG_S))
    assert link.receive(within(0.15)) is None
    check_answers(link)
    server.check()


def test_a_connection_to_a_slow_server_that_pings_stays(start, monkeypatch):
    monkeypatch.setattr(plain_link, "SILENCE_S", 0.05)
    alive = threading.Event()
    given_up = threading.Event()

    def script(conn):
        greet(conn)
        assert read(conn, len(ASK)) == ASK
        conn.sendall(PING)
        assert read(conn, len(PONG)) == PONG
        alive.set()
        assert given_up.wait(LONG_S)
        conn.sendall(ANSWER)

    server, link = start(script)
    assert link.send(b"ask", within(LONG_S))
    until_ns = within(LONG_S)
    while not alive.is_set():
        assert time.monotonic_ns() < until_ns
        link._read(0)
    assert link.receive(within(0.1)) is None
    given_up.set()
    assert link.receive(within(LONG_S)) == b"answer"
    server.check()


def test_after_a_pause_pings_are_answered_and_a_closed_connection_is_not_used(start, monkeypatch):
    """Otherwise the first request after each pause would be lost."""
    monkeypatch.setattr(plain_link, "IDLE_NS", 0)
    pause = threading.Event()

    def script(conn):
        meet(conn)
        assert pause.wait(LONG_S)
        conn.sendall(PING)
        assert read(conn, len(PONG + ASK)) == PONG + ASK
        conn.sendall(ANSWER)

    server, link = start(script, meet)
    check_answers(link)
    pause.set()
    for _ in range(2):
        assert select.select([link._socket], [], [], LONG_S)[0]  # First the ping, then the end.
        check_answers(link)
    server.check()


def test_half_a_request_at_the_deadline_ends_the_connection(start):
    """The server has stopped reading, so that it has half a frame of the request."""
    late = threading.Event()
    got = []

    def script(conn):
        meet(conn)
        assert late.wait(LONG_S)
        got.append(until_closed(conn))

    server, link = start(script, meet)
    check_answers(link)
    link._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    body = bytes(range(256)) * (wire.MAX_FRAME_BYTES // 256)
    start_s = time.monotonic()
    assert not link.send(body, within(0.05))
    assert 0.05 <= time.monotonic() - start_s < 1.5
    late.set()
    check_answers(link)
    server.check()
    assert 0 < len(got[0]) < len(body) and zmtp.frame(body).startswith(got[0])


class Narrow:
    """A socket that sends 3 bytes at most."""

    def __init__(self, own):
        self._own = own

    def send(self, data, flags):
        return self._own.send(data[:3], flags)

    def __getattr__(self, name):
        return getattr(self._own, name)


def test_half_a_pong_ends_the_connection(start):
    narrow = threading.Event()

    def script(conn):
        meet(conn)
        assert narrow.wait(LONG_S)
        conn.sendall(ANSWER + PING)
        assert until_closed(conn) == PONG[:3]

    server, link = start(script, meet)
    check_answers(link)
    assert link._socket is not None
    link._socket = Narrow(link._socket)
    narrow.set()
    assert [link.receive(within(LONG_S)) for _ in range(2)] == [b"answer", None]
    check_answers(link)
    server.check()


@pytest.fixture
def router():
    """Makes libzmq ROUTERs."""
    context = zmq.Context()

    def make(endpoint, **options):
        own = context.socket(zmq.ROUTER)
        for name, value in {"LINGER": 0, **options}.items():
            own.setsockopt(getattr(zmq, name), value)
        own.bind(endpoint)
        return own, own.getsockopt_string(zmq.LAST_ENDPOINT)

    yield make
    context.destroy(linger=0)


def echo(own, link, body):
    assert link.send(body, within(LONG_S))
    assert own.poll(LONG_S * 1000)
    assert own.recv_multipart() == [b"me", body]
    own.send_multipart([b"me", body])
    assert link.receive(within(LONG_S)) == body


def test_a_router_of_libzmq_that_goes_and_comes_back(wanted, router):
    own, endpoint = router(wanted)
    with contextlib.closing(PlainLink(endpoint, b"me")) as link:
        for size in (0, 255, 256, wire.MAX_FRAME_BYTES):
            echo(own, link, bytes([size % 251]) * size)
        own.send_multipart([b"me", b"in", b"parts"])
        assert link.receive(within(LONG_S)) == b"inparts"
        own.close()
        assert link.receive(within(LONG_S)) is None  # Noticed at once.
        own, _ = router(endpoint)
        echo(own, link, b"back")


def test_a_router_of_libzmq_with_heartbeats_keeps_the_link_while_it_waits(wanted, router):
    """Without a PONG within 60 ms libzmq ends the connection. The link waits for 300 ms."""
    own, endpoint = router(wanted, HEARTBEAT_IVL=20, HEARTBEAT_TIMEOUT=60)
    events = own.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    with contextlib.closing(PlainLink(endpoint, b"me")) as link:
        echo(own, link, b"hello")
        assert link.receive(within(0.3)) is None
        assert not events.poll(0)
        echo(own, link, b"still here")
    own.disable_monitor()


@pytest.mark.parametrize(
    "host", ["tcp://127.0.0.1:*", "tcp://[::1]:*", "ipc://@edp-test-{pid}", "ipc://{path}/f"]
)
def test_our_own_two_ends_meet_everywhere(host, tmp_path):
    if "[" in host and not _has_ipv6():
        pytest.skip("no IPv6 here")
    with contextlib.ExitStack() as stack:
        front = stack.enter_context(
            contextlib.closing(PlainFront(host.format(pid=os.getpid(), path=tmp_path)))
        )
        link = stack.enter_context(contextlib.closing(PlainLink(front.endpoint, b"me")))
        until_ns = within(LONG_S)
        while not link.send(b"ask", within(0.001)):
            assert time.monotonic_ns() < until_ns
            front.receive(0)
        assert pump(front, len) == [(b"me", [b"ask"])]
        assert front.send(b"me", b"answer") and link.receive(within(LONG_S)) == b"answer"


def _has_ipv6():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False
