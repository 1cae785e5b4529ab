"""A link against scripted servers: the pieces in which bytes come, and deadlines."""

import contextlib
import os
import resource
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.raw_zmtp import (
    ANSWER,
    ASK,
    GREETING,
    LINK_HELLO,
    LONG_S,
    ROUTER_READY,
    answer,
    check_answers,
    greet,
    listening,
    meet,
    read,
    until_closed,
    within,
)

from policy_server.contract import wire
from policy_server.transport import plain_client as plain_link
from policy_server.transport import zmtp
from policy_server.transport.plain_client import PlainLink

PING = zmtp.command(b"PING", b"\0\0ctx")
PONG = zmtp.command(b"PONG", b"ctx")


def test_a_handshake_and_a_reply_byte_by_byte(start):
    def script(conn):
        for byte in GREETING + ROUTER_READY:
            conn.sendall(bytes([byte]))
        assert read(conn, len(LINK_HELLO)) == LINK_HELLO
        assert read(conn, len(ASK)) == ASK
        for byte in ANSWER + zmtp.frame(bytes(300)):
            conn.sendall(bytes([byte]))

    server, link = start(script)
    check_answers(link)
    assert link.receive(within(LONG_S)) == bytes(300)
    server.check()


def test_everything_in_one_piece_and_a_message_in_parts(start):
    """The greeting, READY, a ping and three messages at once, the second of two frames."""

    def script(conn):
        conn.sendall(
            GREETING
            + ROUTER_READY
            + PING
            + ANSWER
            + zmtp.frame(b"two", zmtp.MORE)
            + zmtp.frame(b"parts")
            + ANSWER
        )
        assert read(conn, len(LINK_HELLO + PONG + ASK)) == LINK_HELLO + PONG + ASK

    server, link = start(script)
    assert link.send(b"ask", within(LONG_S))
    assert [link.receive(within(LONG_S)) for _ in range(3)] == [b"answer", b"twoparts", b"answer"]
    server.check()


def test_messages_of_all_lengths_there_and_back(start):
    sizes = [0, 1, 255, 256, 70_000, wire.MAX_FRAME_BYTES]

    def script(conn):
        greet(conn)
        for size in sizes:
            frame = zmtp.frame(bytes([size % 251]) * size)
            assert read(conn, len(frame)) == frame
            conn.sendall(frame)

    server, link = start(script)
    for size in sizes:
        body = bytes([size % 251]) * size
        assert link.send(body, within(LONG_S))
        assert link.receive(within(LONG_S)) == body
    server.check()


def test_pings_are_answered_while_it_waits(start):
    def script(conn):
        meet(conn)
        for _ in range(5):
            conn.sendall(PING)
            assert read(conn, len(PONG)) == PONG
        conn.sendall(ANSWER)

    server, link = start(script)
    assert link.send(b"ask", within(LONG_S))
    assert [link.receive(within(LONG_S)) for _ in range(2)] == [b"answer", b"answer"]
    server.check()


@pytest.mark.parametrize("wait_s", [-1, 0, 0.001, 0.03, 0.1])
def test_deadlines_are_kept_when_nothing_comes(start, wait_s):
    server, link = start(lambda conn: (meet(conn), until_closed(conn)))
    check_answers(link)
    start_s = time.monotonic()
    assert link.receive(within(wait_s)) is None
    assert wait_s <= time.monotonic() - start_s < wait_s + 1.5
    link.close()
    server.check()


def test_a_silent_server_holds_no_call_beyond_its_deadline(start, monkeypatch):
    """After HANDSHAKE_S the link tries again, until the third server answers."""
    monkeypatch.setattr(plain_link, "HANDSHAKE_S", 0.15)
    server, link = start(
        until_closed, lambda conn: (conn.sendall(GREETING[:30]), until_closed(conn)), meet
    )
    start_s = time.monotonic()
    for _ in range(3):
        call_s = time.monotonic()
        assert not link.send(b"ask", within(0.03))
        assert 0.03 <= time.monotonic() - call_s < 1.5
    check_answers(link)
    assert time.monotonic() - start_s >= 0.3
    server.check()


@pytest.mark.parametrize(
    "said", [b"", ANSWER[:4], zmtp.frame(b"ans", zmtp.MORE), zmtp.frame(bytes(5000))[:3000]]
)
def test_a_server_that_closes_amid_a_reply_is_noticed_at_once(start, said):
    """Nothing of the half reply gets into the next one."""

    def script(conn):
        greet(conn)
        read(conn, len(ASK))
        conn.sendall(said)

    server, link = start(script, meet)
    assert link.send(b"ask", within(LONG_S))
    start_s = time.monotonic()
    assert link.receive(within(LONG_S)) is None
    assert time.monotonic() - start_s < LONG_S / 2
    check_answers(link)
    server.check()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        GREETING[:12] + b"CURVE".ljust(52, b"\0"),
        GREETING + zmtp.frame(ROUTER_READY[2:]),
        GREETING + zmtp.command(b"ERROR", b"\0"),
        GREETING + ROUTER_READY + b"\x08\0",
        GREETING + ROUTER_READY + b"\2" + (wire.MAX_FRAME_BYTES + 1).to_bytes(8, "big"),
        GREETING + ROUTER_READY + zmtp.frame(bytes(600_000), zmtp.MORE) * 2,
    ],
    ids=["http", "curve", "message", "error", "reserved", "oversize", "endless"],
)
def test_a_server_that_breaks_the_rules_is_left(start, said):
    def script(conn):
        with contextlib.suppress(OSError):
            conn.sendall(said)
        until_closed(conn)

    server, link = start(script, meet)
    start_s = time.monotonic()
    for _ in range(2):  # Where the handshake fails, the same call tries again.
        assert link.send(b"ask", within(LONG_S))
        if reply := link.receive(within(LONG_S)):
            break
    assert reply == b"answer" and server.n_accepted == 2
    assert time.monotonic() - start_s < LONG_S / 2
    server.check()


def test_descriptors_beyond_those_of_select(start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1200:
        pytest.skip("no more than 1200 descriptors allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while stack.enter_context(open(os.devnull)).fileno() < plain_link._SELECT_FDS:
            pass
        server, link = start(lambda conn: (meet(conn), answer(conn)))
        check_answers(link)
        assert link._socket.fileno() > plain_link._SELECT_FDS
        start_s = time.monotonic()
        assert link.receive(within(0.01)) is None
        assert time.monotonic() - start_s >= 0.01
        assert link.send(b"ask", within(0.01)) and link.receive(within(LONG_S)) == b"answer"
        server.check()


@given(st.sampled_from([b"", GREETING, GREETING + ROUTER_READY]), st.binary(max_size=60))
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_bytes_of_a_server_do_more_than_lose_the_connection(tmp_path, begin, noise):
    path = f"ipc://{tmp_path}/s"
    with listening(path) as (listener, _), contextlib.closing(PlainLink(path, b"me")) as link:
        assert not link.send(b"ask", 0)
        conn, _ = listener.accept()
        conn.sendall(begin + noise)
        conn.close()
        until_ns = within(LONG_S)
        while link._socket is not None:
            assert time.monotonic_ns() < until_ns
            while (message := link.receive(0)) is not None:
                assert message in noise
            if link._socket is not None:
                link._connect(0)


def test_an_endpoint_must_be_tcp_or_ipc():
    with pytest.raises(ValueError, match="expected tcp://HOST:PORT or ipc://PATH"):
        PlainLink("a:1", b"me")
