"""ZeroMQ's protocol, ZMTP 3.0 with the NULL mechanism, on plain sockets: what libzmq needs two more threads for.

Each hand-over between a thread that computes and one that talks costs a wake-up, which is longer than a small policy
takes. Both ends speak to libzmq's sockets as well. CURVE, which is needed off loopback, is left to libzmq.
Source: RFC 23/ZMTP (rfc.zeromq.org/spec/23).
"""

import struct
from typing import NamedTuple

_SIGNATURE, _SIZE = b"\xff" + bytes(8) + b"\x7f", struct.Struct(">Q")
GREETING_BYTES = 64
MORE, LONG, COMMAND = 1, 2, 4
MAX_IDENTITY = 255


class ZmtpError(ConnectionError):
    """The other end breaks the protocol, or wants a mechanism that is not NULL; the connection must be closed."""


class Frame(NamedTuple):
    """One frame: its flags (MORE, COMMAND) and its content."""

    flags: int
    body: bytes


def greeting() -> bytes:
    """Returns the first 64 bytes of a connection, the same at both ends: signature, version 3.0, mechanism NULL."""
    return _SIGNATURE + b"\x03\x00" + b"NULL".ljust(52, b"\0")


def check_greeting(data: bytes) -> None:
    """Raises ZmtpError unless the 64 bytes are a greeting of ZMTP 3 with the mechanism NULL.

    The start alone may be given too: what is there is checked.
    """
    if data[:1] != b"\xff"[: len(data)] or (len(data) > 9 and data[9] & 1 == 0):
        raise ZmtpError(f"first bytes {data[:10]!r}: not ZeroMQ")
    if len(data) > 10 and data[10] < 3:
        raise ZmtpError(f"ZMTP version {data[10]}, expected 3: update its ZeroMQ to 4.0 or later")
    mechanism = data[12:32].rstrip(b"\0")
    if len(data) >= 32 and mechanism != b"NULL":
        raise ZmtpError(
            f"mechanism {mechanism.decode('ascii', 'replace')}, expected NULL: only one end has keys"
        )


def frame(body: bytes, flags: int = 0) -> bytes:
    """Returns a frame as bytes."""
    n = len(body)
    return bytes((flags, n)) + body if n < 256 else bytes((flags | LONG,)) + _SIZE.pack(n) + body


def command(name: bytes, data: bytes) -> bytes:
    """Returns a command frame."""
    return frame(bytes([len(name)]) + name + data, COMMAND)


def ready(socket_type: bytes, identity: bytes = b"") -> bytes:
    """Returns the READY command: what kind of socket this is, and its routing id."""
    properties = [(b"Socket-Type", socket_type), (b"Identity", identity)]
    return command(
        b"READY",
        b"".join(bytes([len(k)]) + k + struct.pack(">I", len(v)) + v for k, v in properties),
    )


def parse_ready(body: bytes, flags: int = COMMAND) -> dict[bytes, bytes]:
    """Returns the properties that a READY command tells, names in lower case. Raises ZmtpError for anything else."""
    if not flags & COMMAND:
        raise ZmtpError(f"message of {len(body)} bytes, expected the command READY first")
    if not body.startswith(b"\x05READY"):
        raise ZmtpError(f"command {body[1:16]!r}, expected READY")
    properties, at = {}, 6
    while at < len(body):
        name_end = at + 1 + body[at]
        value_at = name_end + 4
        value_end = value_at + int.from_bytes(body[name_end:value_at], "big")
        if value_end > len(body):
            raise ZmtpError("READY ends in the middle of a property")
        properties[body[at + 1 : name_end].lower()] = body[value_at:value_end]
        at = value_end
    return properties


def pong(body: bytes) -> bytes | None:
    """Returns the answer to a PING command (its context repeated), None for any other command."""
    return command(b"PONG", body[7:23]) if body.startswith(b"\x04PING") else None


class Decoder:
    """Cuts a stream of bytes into frames.

    Args:
        max_bytes: Longest content of a frame; a longer one is refused by its header, before it is received.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._rest, self._needed = (
            bytearray(),
            0,
        )  # the start of a frame, and how long the frame is at least

    @property
    def n_partial(self) -> int:
        """How many bytes there are of a frame that has begun and is not complete."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Frame]:
        """Returns the frames that are complete. Raises ZmtpError for reserved flags and frames over the limit."""
        if self._rest:
            self._rest += data  # looked at only when there is enough: a frame in many pieces is not copied for each
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
        elif len(data) > 1 and data[0] == 0 and data[1] == len(data) - 2 <= self._max_bytes:
            return [Frame(0, data[2:])]  # one short message, nothing else
        frames, at, n, self._needed = [], 0, len(data), 2
        while n - at >= 2:
            flags = data[at]
            if flags & LONG:
                if n - at < 9:
                    self._needed = 9
                    break
                start, size = at + 9, _SIZE.unpack_from(data, at + 1)[0]
            else:
                start, size = at + 2, data[at + 1]
            if flags > (MORE | LONG | COMMAND) or size > self._max_bytes:
                raise ZmtpError(
                    f"frame with flags {flags} of {size} bytes, expected at most {self._max_bytes}"
                )
            if n - start < size:
                self._needed = start - at + size
                break
            at = start + size
            frames.append(Frame(flags & ~LONG, data[start:at]))
        self._rest = bytearray(data[at:])
        return frames
