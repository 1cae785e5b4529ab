import re
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_server.contract import wire
from policy_server.contract.wire import Header, Kind, Status, WireError

DOC = Path(__file__).parents[3] / "docs" / "wire.md"


def test_round_trip_of_every_field():
    header = Header(Kind.ACT_REPLY, Status.OK, 2**64 - 1, -(2**63), 7, 8, 1, 2, 3, 4, b"policyid")
    decoded, payload = wire.decode(wire.encode(header, b"12345678"))
    assert decoded == header
    assert bytes(payload) == b"12345678"


def test_times_saturate():
    sent = Header(Kind.ACT, budget_us=10**12, queue_us=-5, server_us=2**40)
    header, _ = wire.decode(wire.encode(sent, b""))
    assert (header.budget_us, header.queue_us, header.server_us) == (2**32 - 1, 0, 2**32 - 1)


def test_floats_are_little_endian_float32():
    assert wire.float_bytes(np.array([1.0, -2.5])) == bytes.fromhex("0000803f000020c0")
    array = wire.floats(bytes.fromhex("0000803f000020c0"), (2, 1))
    np.testing.assert_array_equal(array, [[1.0], [-2.5]])


def frame(magic=b"EDP1", version=2, kind=1, payload=bytes(12), length=12):
    """Returns a frame of sequence number 9, put together without the code under test."""
    head = magic + bytes([version, kind, 0, 0]) + (9).to_bytes(8, "little")
    return head + bytes(12) + length.to_bytes(4, "little") + bytes(24) + payload


@pytest.mark.parametrize(
    ("bad", "status", "sequence"),
    [
        (b"", Status.MALFORMED, 0),
        (frame()[:55], Status.MALFORMED, 0),
        (frame(magic=b"HTTP"), Status.MALFORMED, 0),
        (frame(version=1), Status.BAD_VERSION, 9),
        (frame(kind=0), Status.UNKNOWN_TYPE, 9),
        (frame(kind=6), Status.UNKNOWN_TYPE, 9),
        (frame(length=11), Status.BAD_LENGTH, 9),
        (frame(length=2**32 - 1), Status.BAD_LENGTH, 9),
        (frame(payload=bytes(2**20), length=2**20), Status.BAD_LENGTH, 9),
    ],
)
def test_bad_frames_are_refused_by_status(bad, status, sequence):
    with pytest.raises(WireError) as caught:
        wire.decode(bad)
    assert (caught.value.status, caught.value.sequence) == (status, sequence)


def test_the_frame_of_the_test_above_is_good_where_unchanged():
    header, payload = wire.decode(frame())
    assert (header.sequence, len(payload)) == (9, 12)


def test_a_number_that_no_clipping_mends_is_an_error():
    with pytest.raises(struct.error):
        wire.encode(Header(Kind.ACT, sequence=-1), b"")


def test_too_long_is_not_sent():
    with pytest.raises(WireError, match="at most 1048576"):
        wire.encode(Header(Kind.ACT), bytes(wire.MAX_FRAME_BYTES))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused(value):
    with pytest.raises(WireError, match=r"index \[1\]") as caught:
        wire.floats(wire.float_bytes(np.array([0, value, 0])), (3,))
    assert caught.value.status == Status.NOT_FINITE


@pytest.mark.parametrize("payload", [b"", b"[]", b"\xff", b"{", b"1", b"[" * 100_000])
def test_control_payloads_must_be_objects(payload):
    with pytest.raises(WireError) as caught:
        wire.parse_object(payload)
    assert caught.value.status == Status.MALFORMED


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_decode_or_are_refused(data, with_magic):
    data = b"EDP1\x02" + data if with_magic else data
    try:
        header, payload = wire.decode(data)
    except WireError as error:
        known = ("MALFORMED", "BAD_VERSION", "UNKNOWN_TYPE", "BAD_LENGTH")
        assert error.status.name in known
    else:
        assert len(payload) == header.payload_bytes == len(data) - wire.HEADER_BYTES


def doc_bytes(title):
    """Returns the bytes of the document's first code block below `title`."""
    block = DOC.read_text().split(title)[1].split("```")[1].removeprefix("text")
    left = "\n".join(line.split("|")[0] for line in block.splitlines())
    return bytes.fromhex("".join(re.findall(r"\b[0-9a-f]{2}\b", left)))


def test_the_document_shows_what_the_code_sends():
    header = Header(Kind.ACT, sequence=7, client_time_ns=1_000_000_000, budget_us=8000)
    obs = wire.float_bytes(np.array([1.0, -2.5, 0.0]))
    assert doc_bytes("### Example: ACT") == wire.encode(header, obs)
    reply = Header(
        Kind.ACT_REPLY,
        sequence=7,
        client_time_ns=1_000_000_000,
        queue_us=3,
        inference_us=12,
        server_us=40,
        valid_us=10_000,
        policy=bytes.fromhex("0f1e2d3c4b5a6978"),
    )
    action = wire.float_bytes(np.array([0.5, 0.25]))
    assert doc_bytes("### Example: ACT_REPLY") == wire.encode(reply, action)


def test_the_document_lists_every_type_and_status():
    rows = re.findall(r"^\| (\d+) \| `([A-Z_]+)`", DOC.read_text(), re.MULTILINE)
    listed = {(name, int(code)) for code, name in rows}
    assert listed == {(item.name, item.value) for item in (*Kind, *Status)}
