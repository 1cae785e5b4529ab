"""ZMTP 3.0 against bytes written by hand from RFC 23, and against arbitrary bytes."""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_server.transport import zmtp
from policy_server.transport.zmtp import COMMAND, MORE, Decoder, Frame, ZmtpError

LIMIT = 1000
GREETING = bytes.fromhex("ff 0000000000000000 7f 03 00 4e554c4c") + bytes(16) + bytes(32)
frames_ = st.lists(
    st.builds(
        Frame,
        st.sampled_from([0, MORE, COMMAND, MORE | COMMAND]),
        st.binary(max_size=40) | st.sampled_from([b"a" * n for n in (254, 255, 256, 257, LIMIT)]),
    ),
    max_size=8,
)
cuts_ = st.lists(st.integers(0, 3000), max_size=12)
# Random bytes seldom begin like a frame. These do.
noise_ = st.lists(
    st.binary(max_size=30)
    | st.builds(
        lambda flags, size: bytes([flags | 2]) + size.to_bytes(8, "big"),
        st.integers(0, 15),
        st.integers(0, 9),
    )
    | st.builds(lambda flags, size: bytes([flags, size]), st.integers(0, 7), st.integers(0, 9)),
    max_size=12,
).map(b"".join)


def pieces(data, cuts):
    """Returns the data, cut at these places."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def encode(frames):
    return b"".join(zmtp.frame(body, flags) for flags, body in frames)


def test_the_greeting_is_the_one_of_the_rfc():
    assert len(GREETING) == zmtp.GREETING_BYTES
    assert zmtp.greeting() == GREETING
    zmtp.check_greeting(GREETING)


@pytest.mark.parametrize(
    ("body", "flags", "head"),
    [
        (b"", 0, "00 00"),
        (b"abc", 0, "00 03"),
        (b"abc", MORE, "01 03"),
        (b"abc", COMMAND, "04 03"),
        (b"a" * 255, 0, "00 ff"),
        (b"a" * 256, 0, "02 0000000000000100"),
        (b"a" * 256, MORE, "03 0000000000000100"),
        (b"a" * 70_000, COMMAND, "06 0000000000011170"),
    ],
)
def test_frames_to_the_byte(body, flags, head):
    data = bytes.fromhex(head) + body
    assert zmtp.frame(body, flags) == data
    assert Decoder(100_000).feed(data) == [Frame(flags, body)]


def test_ready_to_the_byte():
    ready = (
        bytes.fromhex("04 2b 05")
        + b"READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
        + b"\x08Identity\x00\x00\x00\x02id"
    )
    assert zmtp.ready(b"DEALER", b"id") == ready
    assert zmtp.parse_ready(ready[2:]) == {b"socket-type": b"DEALER", b"identity": b"id"}


def test_other_spellings_of_ready_are_read():
    """Names in any case, an unknown property, an empty value, no property."""
    body = b"\x05READY\x0bSOCKET-type\x00\x00\x00\x03REQ\x01X\x00\x00\x00\x00"
    assert zmtp.parse_ready(body) == {b"socket-type": b"REQ", b"x": b""}
    assert zmtp.parse_ready(b"\x05READY") == {}


@pytest.mark.parametrize(
    "frame", [Frame(0, b"\x05READY"), Frame(MORE, b"\x05READY"), Frame(COMMAND, b"\x05ERROR\0")]
)
def test_other_frames_than_ready_are_refused(frame):
    with pytest.raises(ZmtpError, match=r"expected.* READY"):
        zmtp.parse_ready(frame.body, frame.flags)


@pytest.mark.parametrize("cut", range(7, 28))
def test_a_ready_that_is_cut_is_refused(cut):
    body = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
    assert len(body) == 28
    with pytest.raises(ZmtpError, match="in the middle"):
        zmtp.parse_ready(body[:cut])


def test_ping_and_pong_to_the_byte():
    """PING has a time to live of 300 (0.1 s each) and a context of up to 16 bytes for PONG."""
    assert zmtp.pong(b"\x04PING\x01\x2c") == bytes.fromhex("04 05 04 504f4e47")
    assert zmtp.pong(b"\x04PING\x01\x2ccontext") == bytes.fromhex("04 0c 04 504f4e47") + b"context"
    assert (
        zmtp.pong(b"\x04PING\x01\x2c" + b"0123456789abcdefTOO LONG")
        == b"\x04\x15\x04PONG0123456789abcdef"
    )
    assert zmtp.pong(b"\x04PONG") is None
    assert zmtp.pong(b"\x05READY") is None


@given(frames_, cuts_)
@settings(max_examples=150, deadline=None)
def test_frames_survive_any_cutting(frames, cuts):
    decoder = Decoder(LIMIT)
    decoded = []
    for piece in pieces(encode(frames), cuts):
        decoded += decoder.feed(piece)
    assert decoded == frames
    assert not decoder.n_partial


@given(frames_)
@settings(max_examples=25, deadline=None)
def test_each_frame_comes_with_its_last_byte(frames):
    ends = {}
    at = 0
    for frame in frames:
        at += len(zmtp.frame(frame.body, frame.flags))
        ends[at] = frame
    decoder = Decoder(LIMIT)
    for at, byte in enumerate(encode(frames), 1):
        assert decoder.feed(bytes([byte])) == ([ends[at]] if at in ends else [])
        assert bool(decoder.n_partial) == (at not in ends)


@given(noise_, cuts_, st.integers(0, 300))
@settings(max_examples=400, deadline=None)
def test_noise_gives_frames_within_the_limit_or_zmtp_error(noise, cuts, limit):
    decoder = Decoder(limit)
    frames = []
    with contextlib.suppress(ZmtpError):
        for piece in pieces(noise, cuts):
            frames += decoder.feed(piece)
    assert noise.startswith(b"".join(_bytes_of(noise, frames)))
    assert all(len(body) <= limit and flags in (0, 1, 4, 5) for flags, body in frames)


def _bytes_of(noise, frames):
    """Yields the frames' bytes as they were. A short frame may have a long header."""
    at = 0
    for _, body in frames:
        end = at + (9 if noise[at] & zmtp.LONG else 2) + len(body)
        yield noise[at : end - len(body)] + body
        at = end


@given(st.binary(max_size=80) | noise_, st.booleans())
@settings(max_examples=300, deadline=None)
def test_noise_instead_of_a_handshake_is_zmtp_error_or_nothing(noise, begins_well):
    with contextlib.suppress(ZmtpError):
        properties = zmtp.parse_ready(b"\x05READY" + noise if begins_well else noise)
        assert sum(map(len, properties)) + sum(map(len, properties.values())) <= len(noise)
    with contextlib.suppress(ZmtpError):
        zmtp.check_greeting(GREETING[: len(noise)] + noise if begins_well else noise)
    assert (zmtp.pong(noise) is None) == (noise[:5] != b"\x04PING")


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("flags", [8, 16, 32, 64, 128, 8 | 2, 255])
def test_reserved_flags_are_refused(flags, split):
    head = bytes([flags]) + (bytes(8) if flags & zmtp.LONG else b"\0")
    with pytest.raises(ZmtpError, match=f"flags {flags}"):
        decoder = Decoder(LIMIT)
        for piece in pieces(head, range(len(head)) if split else []):
            decoder.feed(piece)


@pytest.mark.parametrize(
    ("limit", "head"),
    [
        (LIMIT, b"\x02" + (LIMIT + 1).to_bytes(8, "big")),
        (LIMIT, b"\x02" + b"\xff" * 8),
        (LIMIT, b"\x06" + (1 << 40).to_bytes(8, "big")),
        (100, b"\x00\x65"),
        (100, b"\x00\x65" + bytes(101)),  # All at once: the decoder's fast path.
    ],
)
def test_a_frame_over_the_limit_is_refused_by_its_header(limit, head):
    with pytest.raises(ZmtpError, match=f"at most {limit}"):
        Decoder(limit).feed(head)


def test_a_frame_of_just_the_limit_passes():
    body = bytes(LIMIT)
    assert Decoder(LIMIT).feed(zmtp.frame(body)) == [Frame(0, body)]


def test_the_decoder_keeps_one_frame_at_most():
    decoder = Decoder(LIMIT)
    most = LIMIT + 9
    for _ in range(50):
        for piece in pieces(zmtp.frame(bytes(LIMIT)) * 3, range(0, 3000, 130)):
            decoder.feed(piece)
            assert len(decoder._rest) <= most


def test_a_frame_in_many_pieces_costs_no_copy_for_each():
    """Copying the start of the frame for each of 65536 pieces would move 32 GiB."""
    data = zmtp.frame(bytes(1 << 20))
    decoder = Decoder(1 << 20)
    frames = []
    start_s = time.monotonic()
    for at in range(0, len(data), 16):
        frames += decoder.feed(data[at : at + 16])
    assert [len(body) for _, body in frames] == [1 << 20]
    assert time.monotonic() - start_s < 3


@pytest.mark.parametrize(
    ("bad", "n_needed", "message"),
    [
        (b"GET / HTTP/1.1\r\n", 1, "not ZeroMQ"),
        (b"\xff" + bytes(8) + b"\x7e" + GREETING[10:], 10, "not ZeroMQ"),
        (GREETING[:10] + b"\x01" + GREETING[11:], 11, "version 1, expected 3"),
        (
            GREETING[:12] + b"CURVE".ljust(20, b"\0") + bytes(32),
            32,
            "mechanism CURVE, expected NULL",
        ),
        (GREETING[:12] + b"NULLS".ljust(20, b"\0") + bytes(32), 32, "expected NULL"),
        (GREETING[:12] + b"\xc3\xbc".ljust(20, b"\0") + bytes(32), 32, "expected NULL"),
    ],
)
def test_a_bad_greeting_is_refused_as_soon_as_it_shows(bad, n_needed, message):
    zmtp.check_greeting(bad[: n_needed - 1])
    for n in (n_needed, len(bad)):
        with pytest.raises(ZmtpError, match=message):
            zmtp.check_greeting(bad[:n])


@pytest.mark.parametrize("n", range(65))
def test_every_start_of_a_good_greeting_is_accepted(n):
    zmtp.check_greeting(GREETING[:n])
    zmtp.check_greeting((GREETING[:11] + b"\x01" + GREETING[12:])[:n])  # Version 3.1.
