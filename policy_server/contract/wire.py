"""The bytes on the wire: one ZeroMQ frame a message, a 56-byte little-endian header and a payload.

docs/wire.md is the specification; a test holds its example against this file.
"""

import json
import math
import struct
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

MAGIC = b"EDP1"
VERSION = 2
MAX_FRAME_BYTES = 1 << 20
_HEADER = struct.Struct("<4sBBHQqIIIIII8s")
HEADER_BYTES = _HEADER.size
_U32_MAX = 2**32 - 1
_TIMES = ("budget_us", "queue_us", "inference_us", "server_us", "valid_us")
NO_POLICY = bytes(8)
_FLOAT32 = np.dtype("<f4")


class Kind(IntEnum):
    """What a message is (header field `type`)."""

    ACT = 1
    ACT_REPLY = 2
    ERROR = 3
    CONTROL = 4
    CONTROL_REPLY = 5


_KINDS = frozenset(int(kind) for kind in Kind)


class Status(IntEnum):
    """How a request ended (header field `status`); 0 in requests."""

    OK = 0
    MALFORMED = 1
    BAD_VERSION = 2
    BAD_LENGTH = 3
    NOT_FINITE = 4
    LATE = 5
    UNKNOWN_TYPE = 6
    UNSUPPORTED = 7
    INTERNAL = 8
    OVERLOADED = 9
    SUPERSEDED = 10
    REFUSED = 11


class WireError(ValueError):
    """A message that breaks the specification.

    Attributes:
        status: Which status answers it.
        sequence: Sequence number of the message where it could be read, else 0.
    """

    def __init__(self, status: Status, message: str, sequence: int = 0):
        super().__init__(message)
        self.status = status
        self.sequence = sequence


class Header(NamedTuple):
    """The header of a message, without magic and version.

    Attributes:
        kind: What the message is.
        status: How the request ended.
        sequence: Chosen by the client, echoed by the server.
        client_time_ns: Client's monotonic clock at sending, echoed; means nothing to the server [ns].
        budget_us: Request: how long after arrival an answer is still wanted, 0 for ever [us].
        payload_bytes: Length of the payload; filled in by `encode`.
        queue_us: Reply: wait between arrival and the start of the work [us].
        inference_us: Reply: time in the policy [us].
        server_us: Reply: arrival to reply [us].
        valid_us: Reply: how long the chunk is meant to be executed, from client_time_ns on [us].
        policy: Reply: which policy answered, the first 8 bytes of its bundle's sha256; zeros in requests.
    """

    kind: int
    status: int = Status.OK
    sequence: int = 0
    client_time_ns: int = 0
    budget_us: int = 0
    payload_bytes: int = 0
    queue_us: int = 0
    inference_us: int = 0
    server_us: int = 0
    valid_us: int = 0
    policy: bytes = NO_POLICY


def encode(header: Header, payload: bytes) -> bytes:
    """Returns the frame of a message. Raises WireError where it is longer than MAX_FRAME_BYTES."""
    size = HEADER_BYTES + len(payload)
    if size > MAX_FRAME_BYTES:
        raise WireError(
            Status.BAD_LENGTH, f"message of {size} bytes, expected at most {MAX_FRAME_BYTES}"
        )
    (
        kind,
        status,
        sequence,
        client_time_ns,
        budget_us,
        _,
        queue_us,
        inference_us,
        server_us,
        valid_us,
        policy,
    ) = header
    head = (MAGIC, VERSION, kind, status, sequence, client_time_ns, budget_us, len(payload))
    try:
        return _HEADER.pack(*head, queue_us, inference_us, server_us, valid_us, policy) + payload
    except struct.error:
        clipped = {name: _u32(getattr(header, name)) for name in _TIMES}
        return encode(header._replace(**clipped), payload)


def _u32(value: int) -> int:
    return value if 0 <= value <= _U32_MAX else 0 if value < 0 else _U32_MAX


def decode(frame: bytes) -> tuple[Header, memoryview]:
    """Returns header and payload of a frame, without a copy.

    Raises:
        WireError: MALFORMED (short, or wrong magic), BAD_VERSION, UNKNOWN_TYPE, or BAD_LENGTH (too long, or not
            as long as the header says).
    """
    if len(frame) < HEADER_BYTES:
        raise WireError(
            Status.MALFORMED, f"{len(frame)} bytes, expected a header of {HEADER_BYTES}"
        )
    fields = _HEADER.unpack_from(frame)
    if fields[0] != MAGIC:
        raise WireError(
            Status.MALFORMED, f"first bytes {fields[0]!r}, expected {MAGIC!r}: not this protocol"
        )
    header = Header._make(fields[2:])
    sequence = header.sequence
    if fields[1] != VERSION:
        raise WireError(
            Status.BAD_VERSION,
            f"version {fields[1]}, this side speaks {VERSION}: update one of them",
            sequence,
        )
    if header.kind not in _KINDS:
        raise WireError(
            Status.UNKNOWN_TYPE, f"type {header.kind}, expected one of {sorted(_KINDS)}", sequence
        )
    payload_bytes = len(frame) - HEADER_BYTES
    if header.payload_bytes != payload_bytes or len(frame) > MAX_FRAME_BYTES:
        raise WireError(
            Status.BAD_LENGTH,
            f"payload of {payload_bytes} bytes, header says {header.payload_bytes}; at most {MAX_FRAME_BYTES} in all",
            sequence,
        )
    return header, memoryview(frame)[HEADER_BYTES:]


def floats(payload: memoryview | bytes, shape: tuple[int, ...], sequence: int = 0) -> np.ndarray:
    """Returns the payload as float32 of `shape`, a read-only view.

    Raises:
        WireError: BAD_LENGTH where the size differs, NOT_FINITE for NaN or infinity.
    """
    n_bytes = 4 * math.prod(shape)
    if len(payload) != n_bytes:
        raise WireError(
            Status.BAD_LENGTH,
            f"payload of {len(payload)} bytes, expected {n_bytes}: float32 of shape {shape}; compare with the manifest",
            sequence,
        )
    flat = np.frombuffer(payload, _FLOAT32)
    array = flat.reshape(shape)
    if not _finite(flat):
        where = np.flatnonzero(~np.isfinite(array)).tolist()
        raise WireError(
            Status.NOT_FINITE,
            f"NaN or infinity at index {where[:8]}, expected finite numbers",
            sequence,
        )
    return array


def all_finite(array: np.ndarray) -> bool:
    """Returns whether no number of the array is NaN or infinite; it is contiguous."""
    return _finite(array.reshape(-1))


def _finite(flat: np.ndarray) -> bool:
    """As `all_finite`; a sum of squares is finite, or too large, or of such numbers: one call where three were.

    vdot, unlike dot, does not warn where that sum overflows.
    """
    return math.isfinite(np.vdot(flat, flat)) or bool(np.isfinite(flat).all())


def float_bytes(array: np.ndarray) -> bytes:
    """Returns the array as little-endian float32 bytes, C order."""
    return np.asarray(array, dtype=_FLOAT32).tobytes()


def json_bytes(value: Any) -> bytes:
    """Returns strict JSON as UTF-8."""
    return json.dumps(value, allow_nan=False, sort_keys=True).encode()


def parse_object(payload: memoryview | bytes, sequence: int = 0) -> dict[str, Any]:
    """Returns the JSON object of a control message. Raises WireError MALFORMED for anything else."""
    try:
        value = json.loads(bytes(payload).decode())
    except (ValueError, RecursionError) as error:
        raise WireError(
            Status.MALFORMED, f"payload is not UTF-8 JSON: {error}", sequence
        ) from error
    if not isinstance(value, dict):
        raise WireError(
            Status.MALFORMED,
            f"payload is a JSON {type(value).__name__}, expected an object",
            sequence,
        )
    return value
