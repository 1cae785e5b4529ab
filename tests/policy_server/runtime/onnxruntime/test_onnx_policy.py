import numpy as np
import pytest

from policy_server.contract.errors import BackendError
from policy_server.runtime.onnxruntime import OnnxPolicy, onnx_policy


@pytest.fixture
def asked(monkeypatch):
    """Makes GPU providers compute on the CPU. Lists (provider, batch) of each session."""
    opened = []
    real = onnx_policy.open_session
    bound = onnx_policy.BoundGraph

    def open_session(runtime, onnx, provider, n_threads, batch, precision):
        opened.append((provider, batch))
        return real(runtime, onnx, "cpu", n_threads, batch, precision)

    def bind(runtime, session, shapes, device):
        return bound(runtime, session, shapes, "cpu", staged=device == "cuda")

    monkeypatch.setattr(onnx_policy, "check_available", lambda runtime, provider: None)
    monkeypatch.setattr(onnx_policy, "open_session", open_session)
    monkeypatch.setattr(onnx_policy, "BoundGraph", bind)
    return opened


@pytest.mark.parametrize(
    ("provider", "whole"), [("cuda", "cuda"), ("tensorrt", "cpu"), ("cpu", "cpu")]
)
def test_each_size_has_a_session_on_the_provider(tiny, asked, provider, whole):
    """TensorRT has no dynamic session: that would build an engine while a robot waits."""
    made = OnnxPolicy(tiny.onnx_bytes(), provider, batch_sizes=(4, 1, 4))
    rng = np.random.default_rng(0)
    assert asked == [(whole, None), (provider, ("batch", 1)), (provider, ("batch", 4))]
    assert made.sizes == (1, 4)
    assert all(made.buffers(n)._staged == (provider != "cpu") for n in range(5))
    if provider == "tensorrt":
        made._session = None
    for n in (1, 3, 4, 5, 9):
        obs = rng.normal(size=(n, 3))
        noise = rng.normal(size=(n, 4))
        action = made.act(obs, noise)
        np.testing.assert_allclose(action, tiny.expected_action(obs, noise), atol=1e-6)


def test_tensorrt_refuses_what_it_cannot_make_static(tiny, asked):
    with pytest.raises(BackendError, match=r"needs static shapes.*'obs': \['batch', 3\]"):
        OnnxPolicy(tiny.onnx_bytes(), "tensorrt", batch_sizes=())
    assert asked == [("cpu", None)]


def test_a_raw_graph_needs_no_bundle(tiny, tmp_path):
    (tmp_path / "teacher.onnx").write_bytes(tiny.onnx_bytes())
    golden = tiny.golden()
    policy = OnnxPolicy(tmp_path / "teacher.onnx", "cpu", n_threads=2)
    action = policy.act(golden["obs"], golden["noise"])
    np.testing.assert_allclose(action, golden["action"], atol=1e-6)


def test_nothing_is_stretched_to_fit(tiny):
    policy = OnnxPolicy(tiny.onnx_bytes())
    obs = np.zeros((1, 3), np.float32)
    noise = np.zeros((1, 4), np.float32)
    for wrong in [(obs[:, :1], noise), (obs, noise[:, :1]), (obs, noise[0])]:
        with pytest.raises(BackendError, match=r"expected \(1, 3\), \(1, 4\)"):
            policy.act(*wrong)


def test_more_rows_than_buffers_go_in_chunks_where_the_batch_is_not_dynamic(tiny):
    policy = OnnxPolicy(tiny.onnx_bytes(), batch_sizes=(1, 2))
    policy._dynamic = False
    policy._session = None
    fixed = OnnxPolicy(tiny.onnx_bytes(batch=1))
    golden = tiny.golden()
    for each in (policy, fixed):
        action = each.act(golden["obs"], golden["noise"])
        np.testing.assert_allclose(action, golden["action"], atol=1e-6)
        assert each.act(golden["obs"][:0], golden["noise"][:0]).shape == (0, 2, 2)


def test_what_the_runtime_raises_becomes_a_backend_error(tiny):
    policy = OnnxPolicy(tiny.onnx_bytes())

    def fail(*args):
        raise RuntimeError("out of memory\nat line 3")

    policy.buffers(1)._call = fail
    with pytest.raises(BackendError, match=r"^inference failed on cpu: out of memory$"):
        policy.act(np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32))
