import numpy as np
import pytest

from policy_server.contract.errors import BackendError
from policy_server.runtime.onnxruntime import onnx_policy as policy
from policy_server.runtime.onnxruntime.onnx_policy import OnnxPolicy


@pytest.fixture
def asked(monkeypatch):
    """GPU providers that compute on the CPU, in buffers apart; holds (provider, batch) of each session opened."""
    opened, real, bound = [], policy.open_session, policy.BoundGraph

    def open_session(runtime, onnx, provider, n_threads, batch, precision):
        opened.append((provider, batch))
        return real(runtime, onnx, "cpu", n_threads, batch, precision)

    monkeypatch.setattr(policy, "check_available", lambda runtime, provider: None)
    monkeypatch.setattr(policy, "open_session", open_session)
    monkeypatch.setattr(
        policy, "BoundGraph", lambda *args: bound(*args[:3], "cpu", staged=args[3] == "cuda")
    )
    return opened


@pytest.mark.parametrize(
    ("provider", "whole"), [("cuda", "cuda"), ("tensorrt", "cpu"), ("cpu", "cpu")]
)
def test_each_size_has_a_session_on_the_provider(tiny, asked, provider, whole):
    """TensorRT has no dynamic one, which would build an engine while a robot waits: its rows go in chunks."""
    made, rng = OnnxPolicy(tiny.onnx_bytes(), provider, 1, (4, 1, 4)), np.random.default_rng(0)
    assert asked == [(whole, None), (provider, ("batch", 1)), (provider, ("batch", 4))]
    assert made.sizes == (1, 4) and all(
        ready[0]._staged == (provider != "cpu") for ready in made._ready.values()
    )
    if provider == "tensorrt":
        made._session = None
    for n in (1, 3, 4, 5, 9):
        obs, noise = rng.normal(size=(n, 3)), rng.normal(size=(n, 4))
        np.testing.assert_allclose(
            made.act(obs, noise), tiny.expected_action(obs, noise), atol=1e-6
        )


def test_tensorrt_refuses_what_it_cannot_make_static(tiny, asked):
    with pytest.raises(BackendError, match=r"needs static shapes.*'obs': \['batch', 3\]"):
        OnnxPolicy(tiny.onnx_bytes(), "tensorrt", batch_sizes=())
    assert asked == [("cpu", None)]
