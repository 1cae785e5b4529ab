"""Connections of bad peers end alone. The others do not notice."""

import contextlib
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.raw_zmtp import GREETING, ROUTER_READY, Raw, check_serves, met, pump

from policy_server.contract import wire
from policy_server.transport import plain_server as plain_front
from policy_server.transport import zmtp
from policy_server.transport.plain_server import MAX_UNSENT, PlainFront

MET = GREETING + zmtp.ready(b"DEALER", b"peer")
PING = zmtp.command(b"PING", b"\0\0")
TURN = 16  # Messages.
STUCK_S = 0.2  # Instead of 10.


@pytest.fixture
def hurried(monkeypatch):
    """Makes the front end stuck connections after STUCK_S, and check for them in every call."""
    monkeypatch.setattr(plain_front, "STUCK_S", STUCK_S)
    monkeypatch.setattr(
        PlainFront, "_swept_ns", property(lambda self: 0, lambda self, value: None), raising=False
    )


def test_a_peer_that_never_reads_costs_little_and_ends(ipc, hurried):
    greedy = Raw(ipc, b"greedy")
    good = Raw(ipc, b"good")
    assert good.read(64 + len(ROUTER_READY))
    message = bytes(20_000)
    n_sent = 0
    start_s = time.monotonic()
    while ipc.send(b"greedy", message):
        n_sent += 1
        assert n_sent < 1000
    assert len(ipc._peers[ipc._routes[b"greedy"].fd].unsent) <= MAX_UNSENT
    assert not ipc.send(b"greedy", message)
    check_serves(ipc, good, b"good")
    pump(ipc, lambda got: b"greedy" not in ipc._routes)
    assert time.monotonic() - start_s >= STUCK_S
    assert greedy.ended() and len(ipc._peers) == 1
    check_serves(ipc, good, b"good")


@pytest.mark.parametrize(
    ("said", "drip"),
    [
        (b"", b""),
        (GREETING[:20], b""),
        (GREETING[:16], b"\0"),
        (GREETING, b""),
        (GREETING + zmtp.ready(b"DEALER")[:-1], b""),
        (GREETING + zmtp.ready(b"DEALER")[:10], b"\0"),
        (MET + b"\0", b""),
        (MET + zmtp.frame(bytes(5000))[:-1], b""),
        (MET + zmtp.frame(bytes(5000))[:100], b"\0"),
        (MET + zmtp.frame(b"one") + zmtp.frame(b"two", zmtp.MORE), b""),
        (MET + zmtp.frame(b"one") + zmtp.frame(b"two", zmtp.MORE), PING),
    ],
    ids=[
        "silent",
        "greeting",
        "greeting_drips",
        "no_ready",
        "ready",
        "ready_drips",
        "byte",
        "frame",
        "frame_drips",
        "message",
        "message_pings",
    ],
)
def test_a_peer_that_stops_midway_or_drips_ends_and_an_idle_one_stays(ipc, hurried, said, drip):
    silent = Raw(ipc, b"silent")
    peer = Raw(ipc, hello=False)
    start_s = dripped_s = time.monotonic()
    peer.socket.sendall(said)
    while not peer.ended():
        ipc.receive(0.01)
        assert time.monotonic() - start_s < 5
        if time.monotonic() - dripped_s > 0.02:
            dripped_s = time.monotonic()
            with contextlib.suppress(OSError):
                peer.socket.send(drip)
    assert time.monotonic() - start_s >= STUCK_S
    assert list(ipc._routes) == [b"silent"] and not silent.ended()
    check_serves(ipc, silent, b"silent")


def test_many_large_messages_without_an_end_are_too_many(ipc, monkeypatch):
    monkeypatch.setattr(plain_front, "MAX_HALF", 250_000)
    good = Raw(ipc, b"good")
    one, two, three = [Raw(ipc, name) for name in (b"1", b"2", b"3")]
    met(good)
    half = zmtp.frame(bytes(200_000))[:100_000]
    small = zmtp.frame(bytes(60_000))[:50_001]  # A small half stays.
    for peer, start, n_half in ((one, half, 100_000), (two, half, 200_000), (good, small, 250_001)):
        peer.socket.sendall(start)
        pump(
            ipc,
            lambda got, n_half=n_half: sum(each.n_half for each in ipc._peers.values()) == n_half,
        )
    with contextlib.suppress(OSError):
        three.socket.sendall(half)
    pump(ipc, lambda got: b"3" not in ipc._routes)
    assert three.ended() and sorted(ipc._routes) == [b"1", b"2", b"good"]
    good.socket.sendall(zmtp.frame(bytes(60_000))[50_001:])
    assert pump(ipc, len) == [(b"good", [bytes(60_000)])]
    two.socket.close()
    pump(ipc, lambda got: b"2" not in ipc._routes)
    one.socket.sendall(zmtp.frame(bytes(200_000))[100_000:])
    assert pump(ipc, len) == [(b"1", [bytes(200_000)])]


def send(own, data):
    """Sends as much as the front takes."""
    with contextlib.suppress(OSError):
        own.sendall(data)


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        GREETING[:10] + b"\1" + GREETING[11:],
        GREETING[:12] + b"CURVE".ljust(52, b"\0"),
        GREETING + zmtp.ready(b"PUB"),
        GREETING + zmtp.command(b"READY", b""),
        GREETING + zmtp.command(b"ERROR", b"\0"),
        GREETING + zmtp.frame(zmtp.ready(b"DEALER")[2:]),  # The right bytes, as a message.
        GREETING + zmtp.ready(b"DEALER")[:-3] + b"\xff" * 3,
        MET + b"\2" + (wire.MAX_FRAME_BYTES + 1).to_bytes(8, "big"),
        MET + b"\2" + b"\xff" * 8,
        MET + b"\x08\0",
        MET + zmtp.frame(b"part", zmtp.MORE) * 4,
        MET + zmtp.frame(bytes(600_000), zmtp.MORE) * 2,
    ],
    ids=[
        "http",
        "version",
        "curve",
        "pub",
        "empty",
        "error",
        "message",
        "cut",
        "oversize",
        "huge",
        "reserved",
        "parts",
        "large_parts",
    ],
)
def test_a_peer_that_breaks_the_rules_ends_alone_and_at_once(front, said):
    good = Raw(front, b"good")
    bad = Raw(front, hello=False)
    assert good.read(64 + len(ROUTER_READY))
    sender = threading.Thread(target=send, args=(bad.socket, said))
    sender.start()
    assert pump(front, lambda got: bad.ended()) == []
    sender.join()
    assert list(front._routes) == [b"good"] and len(front._peers) == 1
    check_serves(front, good, b"good")


def test_a_flood_delays_other_peers_by_one_turn_at_most(ipc):
    """The other peer's message is in the next list, behind one turn of the flood at most."""
    flood = Raw(ipc, b"flood")
    good = Raw(ipc, b"good")
    n_flood = 20_000
    data = b"".join(zmtp.frame(number.to_bytes(2, "big")) for number in range(n_flood))
    sender = threading.Thread(target=flood.socket.sendall, args=(data,))
    sender.start()
    received = pump(ipc, len)
    while len(received) < n_flood // 2:
        good.send(b"good")
        messages = ipc.receive(0)
        assert len(messages) <= 2 * TURN + 1
        assert (b"good", [b"good"]) in messages[: TURN + 1]
        received += [message for message in messages if message[0] == b"flood"]
        assert len(ipc._routes[b"flood"].frames) <= plain_front._CHUNK
    received += pump(ipc, lambda got: len(received) + len(got) == n_flood)
    sender.join()
    assert [int.from_bytes(frames[0], "big") for _, frames in received] == list(range(n_flood))


@given(
    st.sampled_from([b"", GREETING, MET]),
    st.lists(st.binary(max_size=40) | st.sampled_from([MET, PING]), max_size=4),
)
@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_bytes_of_a_stranger_harm_the_others(ipc, begin, rest):
    good = met(Raw(ipc, b"good"))
    evil = Raw(ipc, hello=False)
    evil.socket.sendall(begin + b"".join(rest))
    pump(ipc, lambda got: len(ipc._peers) == 2 or evil.ended())
    evil.socket.close()
    pump(ipc, lambda got: len(ipc._peers) == 1)
    check_serves(ipc, good, b"good")
    good.socket.close()
    pump(ipc, lambda got: not ipc._peers and not ipc._routes)
