"""The bytes on the wire: each message is one frame, a 56-byte little-endian header and a payload.

docs/wire.md is the specification. A test compares its example with this file.
"""

import json
import math
import struct
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from policy_server.contract.clock import FOREVER_S

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
    """A message breaks the specification.

    Attributes:
        status: The status that answers it.
        sequence: The message's sequence number, or 0 if it could not be read.
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
        sequence: Number that the client chooses and the server echoes.
        client_time_ns: Client's monotonic clock at sending [ns]. The server only echoes it.
        budget_us: Request: how long after arrival an answer is still wanted [us]. 0: no limit.
            ACT_REPLY: `n_seen`.
        payload_bytes: Length of the payload; `encode` fills it in.
        queue_us: Reply: wait between arrival and the start of the work [us].
        inference_us: Reply: time in the policy [us].
        server_us: Reply: arrival to reply [us].
        valid_us: Reply: how long the chunk is meant to be executed, from client_time_ns on [us].
        policy: Reply: first 8 bytes of the sha256 of the bundle that answered. Request: zeros.
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

    @property
    def n_seen(self) -> int:
        """ACT_REPLY: observations in the policy's memory, this one included; 0 without memory.

        It stands where a request has its budget.
        """
        return self.budget_us


def encode(header: Header, payload: bytes) -> bytes:
    """Returns the frame of a message. Times that do not fit their 32 bits are clipped.

    Raises:
        WireError: The frame is longer than MAX_FRAME_BYTES.
    """
    size = HEADER_BYTES + len(payload)
    if size > MAX_FRAME_BYTES:
        message = f"message of {size} bytes, expected at most {MAX_FRAME_BYTES}"
        raise WireError(Status.BAD_LENGTH, message)
    try:
        head = _pack(header, len(payload))
    except struct.error:
        clipped = {name: min(max(getattr(header, name), 0), _U32_MAX) for name in _TIMES}
        head = _pack(header._replace(**clipped), len(payload))
    return head + payload


def budget_us(wait_s: float) -> int:
    """Returns the budget of a request [us], 0 (no limit) where the wait is FOREVER_S or longer."""
    return 0 if wait_s >= FOREVER_S else max(int(wait_s * 1e6), 1)


def _pack(header: Header, n_bytes: int) -> bytes:
    """Returns the bytes of a header with `n_bytes` as payload_bytes."""
    return _HEADER.pack(MAGIC, VERSION, *header[:5], n_bytes, *header[6:])


def decode(frame: bytes) -> tuple[Header, memoryview]:
    """Returns header and payload of a frame, without a copy.

    Raises:
        WireError: MALFORMED (short, or wrong magic), BAD_VERSION, UNKNOWN_TYPE, or BAD_LENGTH (too
            long, or not as long as the header says).
    """
    n_bytes = len(frame)
    if n_bytes < HEADER_BYTES:
        message = f"{n_bytes} bytes, expected a header of {HEADER_BYTES}"
        raise WireError(Status.MALFORMED, message)
    magic, version, *fields = _HEADER.unpack_from(frame)
    if magic != MAGIC:
        message = f"first bytes {magic!r}, expected {MAGIC!r}: not this protocol"
        raise WireError(Status.MALFORMED, message)
    header = Header._make(fields)
    if version != VERSION:
        message = f"version {version}, this side speaks {VERSION}: update one of them"
        raise WireError(Status.BAD_VERSION, message, header.sequence)
    if header.kind not in _KINDS:
        message = f"type {header.kind}, expected one of {sorted(_KINDS)}"
        raise WireError(Status.UNKNOWN_TYPE, message, header.sequence)
    if header.payload_bytes != n_bytes - HEADER_BYTES or n_bytes > MAX_FRAME_BYTES:
        message = (
            f"payload of {n_bytes - HEADER_BYTES} bytes, header says {header.payload_bytes}; "
            f"at most {MAX_FRAME_BYTES} in all"
        )
        raise WireError(Status.BAD_LENGTH, message, header.sequence)
    return header, memoryview(frame)[HEADER_BYTES:]


def floats(payload: memoryview | bytes, shape: tuple[int, ...], sequence: int = 0) -> np.ndarray:
    """Returns the payload as float32 of `shape`, a read-only view.

    Args:
        payload: Little-endian float32 numbers, C order.
        shape: Expected shape.
        sequence: Sequence number for the error.

    Raises:
        WireError: BAD_LENGTH if the size differs, NOT_FINITE for NaN or infinity.
    """
    n_bytes = 4 * math.prod(shape)
    if len(payload) != n_bytes:
        message = (
            f"payload of {len(payload)} bytes, expected {n_bytes}: float32 of shape {shape}; "
            "compare with the manifest"
        )
        raise WireError(Status.BAD_LENGTH, message, sequence)
    flat = np.frombuffer(payload, _FLOAT32)
    if not all_finite(flat):
        where = np.flatnonzero(~np.isfinite(flat)).tolist()
        message = f"NaN or infinity at index {where[:8]}, expected finite numbers"
        raise WireError(Status.NOT_FINITE, message, sequence)
    return flat.reshape(shape)


def all_finite(array: np.ndarray) -> bool:
    """Returns whether every number of a contiguous array is finite."""
    flat = array.reshape(-1)
    # One call, unless the sum of squares overflows. vdot, unlike dot, does not warn then.
    return math.isfinite(np.vdot(flat, flat)) or bool(np.isfinite(flat).all())


def float_bytes(array: np.ndarray) -> bytes:
    """Returns the array as little-endian float32 bytes, C order."""
    return np.asarray(array, dtype=_FLOAT32).tobytes()


def json_bytes(value: Any) -> bytes:
    """Returns strict JSON as UTF-8."""
    return json.dumps(value, allow_nan=False, sort_keys=True).encode()


def parse_object(payload: memoryview | bytes, sequence: int = 0) -> dict[str, Any]:
    """Returns the JSON object of a control message.

    Raises:
        WireError: MALFORMED if the payload is something else.
    """
    try:
        value = json.loads(bytes(payload).decode())
    except (ValueError, RecursionError) as error:
        message = f"payload is not UTF-8 JSON: {error}"
        raise WireError(Status.MALFORMED, message, sequence) from error
    if not isinstance(value, dict):
        message = f"payload is a JSON {type(value).__name__}, expected an object"
        raise WireError(Status.MALFORMED, message, sequence)
    return value
