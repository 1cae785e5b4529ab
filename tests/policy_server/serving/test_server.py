"""Real server processes on real sockets: sessions, noise, refusals, signals."""

import json
import signal
import subprocess
import uuid

import numpy as np
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.checked_client import refusal
from support.serving import SERVE

from policy_server.contract import wire
from policy_server.contract.wire import Header, Kind, Status
from policy_server.control.client import PolicyClient
from policy_server.control.local import LocalPolicy

OBS = np.float32([0.1, -0.2, 0.01])


@pytest.fixture
def client(served):
    with PolicyClient(served.endpoint, timeout_s=10) as client:
        yield client


@pytest.fixture
def raw(served):
    """A bare DEALER as a function: raw(*frames) returns (header, payload)."""
    with zmq.Context.instance().socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.rcvtimeo = 10_000
        socket.connect(served.endpoint)

        def ask(*frames):
            socket.send_multipart(frames)
            return wire.decode(socket.recv())

        yield ask


def run_serve(bundle, endpoint):
    command = [*SERVE, str(bundle), "--bind", endpoint, "--provider", "cpu"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_ready_line_names_policy_endpoint_and_provider(served, client):
    short_hash = client.hello()["bundle_hash"][:12]
    assert served.line == f"serving tiny ({short_hash}) on {served.endpoint}, provider cpu\n"
    assert served.endpoint.startswith("tcp://127.0.0.1:") and not served.endpoint.endswith("*")


def test_hello_tells_the_manifest(client, bundle_path):
    assert client.hello()["manifest"] == json.loads((bundle_path / "manifest.json").read_text())
    assert (client.manifest.obs_dim, client.manifest.horizon) == (3, 2)
    assert client.health()["status"] == "ok"


def test_served_equals_local_bit_for_bit(client, bundle_path, tiny):
    local = LocalPolicy(bundle_path, "cpu")
    rng = np.random.default_rng(3)
    for seed in (11, 12, 11):
        client.reset(seed)
        local.reset(seed)
        by_hand = np.random.Generator(np.random.PCG64(seed))
        for obs in rng.normal(size=(5, 3)).astype(np.float32):
            served = client.act(obs)
            assert served.tobytes() == local.act(obs).tobytes()
            noise = by_hand.standard_normal((1, 4), dtype=np.float32)
            np.testing.assert_allclose(served, tiny.expected_action(obs[None], noise)[0], atol=1e-6)


def test_first_session_without_reset_equals_local_with_the_servers_seed(start_server, bundle_path):
    with PolicyClient(start_server(bundle_path, seed=42).endpoint, 10) as first:
        assert first.hello()["session"] == 0
        local = LocalPolicy(bundle_path, "cpu", seed=42)
        other = LocalPolicy(bundle_path, "cpu", seed=43)
        served = [first.act(OBS).tobytes() for _ in range(3)]
        assert served == [local.act(OBS).tobytes() for _ in range(3)]
        assert served[0] != other.act(OBS).tobytes()


def test_sessions_have_their_own_noise(served, client):
    with PolicyClient(served.endpoint, 10) as other:
        for each in (client, other):
            each.reset(5)
        first = client.act(OBS)
        client.act(OBS)
        assert other.act(OBS).tobytes() == first.tobytes()
        assert other.hello()["session"] != client.hello()["session"]


def test_sessions_that_were_not_reset_differ(start_server, bundle_path):
    endpoint = start_server(bundle_path).endpoint
    with PolicyClient(endpoint, 10) as first, PolicyClient(endpoint, 10) as second:
        assert first.act(OBS).tobytes() != second.act(OBS).tobytes()


def test_a_reconnected_client_keeps_its_session(served, client, monkeypatch):
    """The session continues on a second connection while the first is not seen dead yet."""
    client.reset(5)
    expected = [client.act(OBS).tobytes() for _ in range(2)]
    same = uuid.uuid4()
    monkeypatch.setattr(uuid, "uuid4", lambda: same)
    with PolicyClient(served.endpoint, 10) as before:
        before.reset(5)
        seen = [before.act(OBS).tobytes()]
        with PolicyClient(served.endpoint, 10) as after:
            seen.append(after.act(OBS).tobytes())
    assert seen == expected


def test_reset_without_seed_goes_on_and_refused_requests_take_no_noise(client):
    client.reset(5)
    expected = [client.act(OBS).tobytes() for _ in range(3)]
    client.reset(5)
    seen = [client.act(OBS).tobytes()]
    client.reset()
    seen.append(client.act(OBS).tobytes())
    assert refusal(lambda: client.act(OBS * np.nan))[0] == Status.NOT_FINITE
    assert refusal(lambda: client.act(OBS[:2]))[0] == Status.BAD_LENGTH
    seen.append(client.act(OBS).tobytes())
    assert seen == expected and len(set(expected)) == 3


@pytest.mark.parametrize(
    ("obs", "status"),
    [
        (OBS[:2], Status.BAD_LENGTH),
        (np.zeros(4), Status.BAD_LENGTH),
        (np.zeros(0), Status.BAD_LENGTH),
        (np.array([0, np.nan, 0]), Status.NOT_FINITE),
        (np.array([0, np.inf, 0]), Status.NOT_FINITE),
        (np.array([0, 1e300, 0]), Status.NOT_FINITE),
    ],
)
def test_bad_observations_get_a_typed_reply_and_serving_goes_on(client, obs, status):
    with np.errstate(over="ignore"):
        assert refusal(lambda: client.act(obs))[0] == status
    assert client.act(OBS).shape == (2, 2)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "1", True, []])
def test_bad_seeds_are_refused(client, seed):
    assert refusal(lambda: client.reset(seed))[0] == Status.MALFORMED


def test_control_requests_that_do_not_exist(client):
    for op in ("kill", "shutdown", None, ["hello"]):
        assert refusal(lambda op=op: client._control({"op": op}))[0] == Status.UNSUPPORTED


@pytest.mark.parametrize(
    ("frames", "status"),
    [
        ([b""], Status.MALFORMED),
        ([b"GET / HTTP/1.1"], Status.MALFORMED),
        ([b"", b"x"], Status.MALFORMED),
        ([wire.encode(Header(Kind.ACT, 0, 3), bytes(12))[:-1]], Status.BAD_LENGTH),
        ([wire.encode(Header(Kind.ACT_REPLY, 0, 3), b"")], Status.UNKNOWN_TYPE),
        ([wire.encode(Header(Kind.CONTROL, 0, 3), b"[]")], Status.MALFORMED),
        ([b"EDP1\x07" + bytes(51)], Status.BAD_VERSION),
    ],
)
def test_malformed_messages_get_a_typed_reply_and_serving_goes_on(raw, client, frames, status):
    header, payload = raw(*frames)
    assert (header.kind, header.status) == (Kind.ERROR, status)
    assert header.sequence in (0, 3) and len(payload) > 10
    assert b"Traceback" not in bytes(payload)
    assert client.act(OBS).shape == (2, 2)


def test_a_reply_repeats_sequence_and_time(raw):
    header, payload = raw(wire.encode(Header(Kind.ACT, 0, 77, -5, 0), wire.float_bytes(OBS)))
    assert (header.kind, header.status) == (Kind.ACT_REPLY, Status.OK)
    assert (header.sequence, header.client_time_ns) == (77, -5)
    assert header.valid_us == 10_000 and len(payload) == 16
    assert header.queue_us + header.inference_us <= header.server_us + 2


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=9),
        lambda x: st.dictionaries(st.text(max_size=5), x),
    )
)
def test_no_json_stops_it(raw, value):
    payload = wire.json_bytes({"op": "reset", "seed": value})
    header, _ = raw(wire.encode(Header(Kind.CONTROL, 0, 1), payload))
    assert header.status in (Status.OK, Status.MALFORMED)


def test_a_message_over_the_size_cap_costs_its_sender_the_connection(served, client):
    with zmq.Context.instance().socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.rcvtimeo = 300
        socket.connect(served.endpoint)
        socket.send(bytes(wire.MAX_FRAME_BYTES + 1))
        with pytest.raises(zmq.Again):
            socket.recv()
    assert client.act(OBS).shape == (2, 2)


def test_stats_count_what_happened(client):
    before = client.stats()
    for _ in range(4):
        client.act(OBS)
    refusal(lambda: client.act(OBS * np.nan))
    after = client.stats()
    assert after["inference_us"]["n"] - before["inference_us"]["n"] == 4
    assert after["counts"]["NOT_FINITE"] - before["counts"].get("NOT_FINITE", 0) == 1
    assert 0 < after["server_us"]["p50_us"] <= after["server_us"]["max_us"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(start_server, bundle_path, number):
    process = start_server(bundle_path).process
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert [line.split()[2] for line in errors.splitlines()] == ["serving", "draining"]


def test_endpoint_in_use_is_refused(served, bundle_path):
    result = run_serve(bundle_path, served.endpoint)
    assert result.returncode == 1
    hint = "Address already in use; stop the other process or choose another --bind"
    assert hint in result.stderr
    assert "Traceback" not in result.stderr and result.stdout == ""


def test_a_machine_that_computes_something_else_does_not_serve(tiny, tmp_path):
    tiny.save(tmp_path / "b", onnx_bytes=tiny.onnx_bytes(tiny.W * np.float32(1.1)))
    result = run_serve(tmp_path / "b", "tcp://127.0.0.1:*")
    assert result.returncode == 1 and result.stdout == ""
    assert "self-test failed on cpu: over 5 golden vectors the actions differ" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_damaged_bundle_is_not_served(tiny, tmp_path):
    tiny.save(tmp_path / "b")
    (tmp_path / "b" / "policy.onnx").write_bytes(b"")
    result = run_serve(tmp_path / "b", "tcp://127.0.0.1:*")
    assert result.returncode == 1 and "policy.onnx is damaged" in result.stderr
    assert "Traceback" not in result.stderr
