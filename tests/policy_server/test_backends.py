import numpy as np
import pytest

from policy_server import backends
from policy_server.backends import BackendError, OnnxPolicy
from policy_server.bundle import Bundle


def test_answers_the_known_function(tiny, bundle_path):
    backend = backends.load(bundle_path, "cpu")
    rng = np.random.default_rng(2)
    obs, noise = rng.normal(size=(7, 3)), rng.normal(size=(7, 4))
    action = backend.act(obs, noise)
    assert action.dtype == np.float32 and action.shape == (7, 2, 2)
    np.testing.assert_allclose(action, tiny.expected_action(obs, noise), atol=1e-6)
    assert backend.provider == "cpu"
    assert backend.self_test() < 1e-6


def test_rows_of_a_batch_do_not_mix(tiny, bundle_path):
    backend = backends.load(Bundle.load(bundle_path), "cpu")
    golden = tiny.golden()
    whole = backend.act(golden["obs"], golden["noise"])
    rows = [backend.act(golden["obs"][i : i + 1], golden["noise"][i : i + 1])[0] for i in range(5)]
    np.testing.assert_allclose(whole, rows, atol=1e-6)


def test_a_graph_for_one_row_serves_many(tiny, tmp_path):
    backend = backends.load(tiny.save(tmp_path / "b", onnx_bytes=tiny.onnx_bytes(batch=1)), "cpu")
    assert backend.self_test() < 1e-6


def test_self_test_refuses_another_policy(tiny, tmp_path):
    weights = tiny.W + np.float32(0.01)
    backend = backends.load(tiny.save(tmp_path / "b", onnx_bytes=tiny.onnx_bytes(weights)), "cpu")
    with pytest.raises(BackendError, match=r"max abs error 0\.0\d+, expected at most 0.0001"):
        backend.self_test()
    assert 0.001 < backend.self_test(atol=1.0) < 0.1


def test_self_test_refuses_nan(tiny, tmp_path):
    backend = backends.load(tiny.save(tmp_path / "b", onnx_bytes=tiny.onnx_bytes(final="Log")), "cpu")
    with pytest.raises(BackendError, match="max abs error nan"):
        backend.self_test(atol=1e9)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ({"weights": np.zeros((4, 4), np.float32), "n_obs": 4}, r"obs is \['batch', 4\], manifest says \['batch', 3\]"),
        ({"horizon": 1}, r"action is \['batch', 1, 4\]"),
        ({"batch": 3}, "batch free or 1"),
        ({"names": ("obs", "noise", "result")}, "result"),
        ({"names": ("state", "noise", "action")}, "state"),
    ],
)
def test_graphs_that_contradict_the_manifest_are_refused(tiny, tmp_path, graph, message):
    bundle = tiny.save(tmp_path / "b", onnx_bytes=tiny.onnx_bytes(**graph))
    with pytest.raises(BackendError, match=message):
        backends.load(bundle, "cpu")


def test_what_is_no_graph_is_refused(tiny, tmp_path):
    with pytest.raises(BackendError, match="refused the graph on cpu"):
        backends.load(tiny.save(tmp_path / "b", onnx_bytes=b"not a graph"), "cpu")


def test_wrong_shapes_are_refused(bundle_path):
    backend = backends.load(bundle_path, "cpu")
    with pytest.raises(BackendError, match=r"expected \(2, 3\) and \(2, 4\)"):
        backend.act(np.zeros((2, 4)), np.zeros((2, 4)))


def test_unknown_and_missing_providers_are_named(bundle_path, monkeypatch):
    with pytest.raises(BackendError, match="expected one of auto, cpu, cuda, tensorrt"):
        backends.load(bundle_path, "gpu")
    monkeypatch.setattr(backends, "_gpu_present", lambda: False)
    with pytest.raises(BackendError, match=r"cuda .*available: cpu|cuda is not in this ONNX Runtime"):
        backends.load(bundle_path, "cuda")


def test_a_provider_that_does_not_load_is_no_silent_fallback(bundle_path, monkeypatch):
    if backends._gpu_present():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(backends, "_gpu_present", lambda: True)
    with pytest.raises(BackendError, match="cuda"):
        backends.load(bundle_path, "cuda")
    assert backends.load(bundle_path, "auto").provider == "cpu"


def test_a_raw_graph_needs_no_bundle(tiny, tmp_path):
    (tmp_path / "teacher.onnx").write_bytes(tiny.onnx_bytes())
    golden = tiny.golden()
    action = OnnxPolicy(tmp_path / "teacher.onnx", "cpu", n_threads=2).act(golden["obs"], golden["noise"])
    np.testing.assert_allclose(action, golden["action"], atol=1e-6)
