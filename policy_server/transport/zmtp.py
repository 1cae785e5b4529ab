"""Encodes and decodes ZeroMQ's protocol, ZMTP 3.0 with the NULL mechanism, for plain sockets.

libzmq talks in threads of its own. Each hand-over to such a thread costs a wake-up, which takes
longer than a small policy. Both of our ends also talk to libzmq's sockets. CURVE, which is needed
off loopback, is left to libzmq.
Source: RFC 23/ZMTP (rfc.zeromq.org/spec/23).
"""

import struct
from typing import NamedTuple

GREETING_BYTES = 64
MORE = 1
LONG = 2
COMMAND = 4
MAX_IDENTITY = 255
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_SIZE = struct.Struct(">Q")


class ZmtpError(ConnectionError):
    """The peer breaks the protocol, or its mechanism is not NULL. Close the connection."""


class Frame(NamedTuple):
    """One frame: its flags (MORE, COMMAND) and its content."""

    flags: int
    body: bytes


def greeting() -> bytes:
    """Returns the first 64 bytes of a connection: signature, version 3.0, mechanism NULL."""
    return _SIGNATURE + b"\x03\x00" + b"NULL".ljust(52, b"\0")


def check_greeting(data: bytes) -> None:
    """Checks a greeting, or the start of one.

    Raises:
        ZmtpError: The bytes are no greeting of ZMTP 3 with the mechanism NULL.
    """
    if data[:1] != b"\xff"[: len(data)] or (len(data) > 9 and data[9] & 1 == 0):
        raise ZmtpError(f"first bytes {data[:10]!r}: not ZeroMQ")
    if len(data) > 10 and data[10] < 3:
        raise ZmtpError(f"ZMTP version {data[10]}, expected 3: update its ZeroMQ to 4.0 or later")
    mechanism = data[12:32].rstrip(b"\0")
    if len(data) >= 32 and mechanism != b"NULL":
        name = mechanism.decode("ascii", "replace")
        raise ZmtpError(f"mechanism {name}, expected NULL: only one end has keys")


def frame(body: bytes, flags: int = 0) -> bytes:
    """Returns a frame as bytes."""
    n = len(body)
    if n < 256:
        return bytes((flags, n)) + body
    return bytes((flags | LONG,)) + _SIZE.pack(n) + body


def command(name: bytes, data: bytes) -> bytes:
    """Returns a command frame."""
    return frame(bytes([len(name)]) + name + data, COMMAND)


def ready(socket_type: bytes, identity: bytes = b"") -> bytes:
    """Returns the READY command, which tells the kind of socket and its routing id."""
    properties = ((b"Socket-Type", socket_type), (b"Identity", identity))
    data = b"".join(
        bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
        for name, value in properties
    )
    return command(b"READY", data)


def parse_ready(body: bytes, flags: int = COMMAND) -> dict[bytes, bytes]:
    """Returns the properties of a READY command, with their names in lower case.

    Raises:
        ZmtpError: The frame is no READY command, or a property is cut off.
    """
    if not flags & COMMAND:
        raise ZmtpError(f"message of {len(body)} bytes, expected the command READY first")
    if not body.startswith(b"\x05READY"):
        raise ZmtpError(f"command {body[1:16]!r}, expected READY")
    properties = {}
    at = 6
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
    """Returns the answer to a PING command, None for any other command."""
    return command(b"PONG", body[7:23]) if body.startswith(b"\x04PING") else None


class Decoder:
    """Cuts a stream of bytes into frames.

    Args:
        max_bytes: Longest content of a frame. The header of a longer one is refused before its
            content arrives.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._rest = bytearray()  # The start of a frame.
        self._needed = 0  # How long that frame is at least.

    @property
    def n_partial(self) -> int:
        """Number of bytes received of an incomplete frame."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[Frame]:
        """Returns the frames that `data` completes.

        Raises:
            ZmtpError: A frame has reserved flags, or is longer than the limit.
        """
        if self._rest:
            self._rest += data  # A frame in many pieces must not be copied for each piece.
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
        elif len(data) > 1 and data[0] == 0 and data[1] == len(data) - 2 <= self._max_bytes:
            return [Frame(0, data[2:])]  # The usual case: one short message.
        frames = []
        at = 0
        n = len(data)
        self._needed = 2
        while n - at >= 2:
            flags = data[at]
            start = at + 2
            if flags & LONG:
                start = at + 9
                if n < start:
                    self._needed = 9
                    break
                (size,) = _SIZE.unpack_from(data, at + 1)
            else:
                size = data[at + 1]
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
