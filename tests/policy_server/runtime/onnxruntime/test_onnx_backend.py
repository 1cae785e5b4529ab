import numpy as np
import pytest

from policy_server.contract.errors import BackendError
from policy_server.contract.onnx_import import import_onnxruntime
from policy_server.runtime.base import load_backend
from policy_server.runtime.onnxruntime import gpu, onnx_backend, providers


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            {"weights": np.zeros((4, 4), np.float32), "n_obs": 4},
            r"obs is \['batch', 4\], manifest says \['batch', 3\]",
        ),
        ({"horizon": 1}, r"action is \['batch', 1, 4\]"),
        ({"batch": 3}, "batch free or 1"),
        ({"names": ("obs", "noise", "result")}, "result"),
        ({"names": ("state", "noise", "action")}, "state"),
    ],
)
def test_graphs_that_contradict_the_manifest_are_refused(tiny, tmp_path, graph, message):
    bundle = tiny.save(tmp_path / "b", onnx_bytes=tiny.onnx_bytes(**graph))
    with pytest.raises(BackendError, match=message):
        load_backend(bundle, "cpu")


def test_a_graph_without_noise_needs_a_manifest_without_it(tiny, tmp_path):
    golden = {**tiny.golden(), "noise": np.zeros((5, 0), np.float32)}
    bundle = tiny.save(tmp_path / "b", latent_dim=0, golden=golden)
    with pytest.raises(BackendError, match=r"graph has \['action', 'noise', 'obs'\].*latent_dim 0"):
        load_backend(bundle, "cpu")


def test_what_is_no_graph_is_refused(tiny, tmp_path):
    with pytest.raises(BackendError, match="refused the graph on cpu"):
        load_backend(tiny.save(tmp_path / "b", onnx_bytes=b"not a graph"), "cpu")


def test_a_graph_for_one_row_serves_many(tiny, tmp_path):
    backend = load_backend(tiny.save(tmp_path / "b", onnx_bytes=tiny.onnx_bytes(batch=1)), "cpu")
    assert backend.self_test() < 1e-6


def test_a_missing_gpu_is_named(bundle_path, monkeypatch):
    monkeypatch.setattr(gpu, "present", lambda: False)
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(BackendError, match=rf"{provider} needs an NVIDIA GPU.*available: cpu"):
            load_backend(bundle_path, provider)
    assert load_backend(bundle_path, "auto").provider == "cpu"


@pytest.mark.parametrize(
    ("provider", "absent", "said"),
    [
        ("cuda", "libcudnn.so.9", r"cannot load libcudnn\.so\.9 \(pip install nvidia-cudnn"),
        (
            "tensorrt",
            "libnvinfer.so.11",
            r"cannot load libnvinfer\.so\.11 or .* \(pip install tensorrt\)",
        ),
    ],
)
def test_a_missing_library_is_named(bundle_path, monkeypatch, provider, absent, said):
    monkeypatch.setattr(gpu, "present", lambda: True)
    wanted = {name for names, _ in sum(gpu.LIBRARIES.values(), ()) for name in names}
    found = wanted - {absent, "libnvinfer.so.10"}
    real = gpu.missing_libraries

    def load(name):
        if name not in found:
            raise OSError(name)

    monkeypatch.setattr(gpu, "missing_libraries", lambda provider: real(provider, load))
    with pytest.raises(BackendError, match=f"provider {provider} {said}"):
        load_backend(bundle_path, provider)


def test_a_provider_that_does_not_load_is_no_silent_fallback(bundle_path, monkeypatch):
    """Everything seems to be there, and ONNX Runtime falls back to the CPU all the same."""
    monkeypatch.setattr(gpu, "present", lambda: True)
    monkeypatch.setattr(gpu, "missing_libraries", lambda provider: [])
    monkeypatch.setattr(gpu, "complaint", lambda folder, provider: "")
    onnxruntime = import_onnxruntime()

    class Fallen(onnxruntime.InferenceSession):
        def __init__(self, graph, options, providers, enable_fallback):
            super().__init__(graph, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    with pytest.raises(BackendError, match="provider cuda did not load"):
        load_backend(bundle_path, "cuda")
    assert load_backend(bundle_path, "auto").provider == "cpu"


@pytest.mark.parametrize(("cuda_s", "chosen"), [(0.1, "cuda"), (0.3, "cpu")])
def test_auto_takes_the_faster_of_cpu_and_cuda(bundle_path, monkeypatch, cuda_s, chosen):
    real = onnx_backend.OnnxPolicy
    opened = []

    def policy_on(graph, provider, **options):
        policy = real(graph, "cpu", **options)
        policy.provider = provider
        opened.append(provider)
        return policy

    times = {"cpu": 0.2, "cuda": cuda_s}
    monkeypatch.setattr(gpu, "present", lambda: True)
    monkeypatch.setattr(onnx_backend, "OnnxPolicy", policy_on)
    monkeypatch.setattr(onnx_backend, "_median_s", lambda policy, golden: times[policy.provider])
    assert load_backend(bundle_path, "auto").provider == chosen
    assert opened == ["cpu", "cuda"]


def test_every_number_of_rows_gives_the_same_actions(tiny, tmp_path):
    """Sizes up to 4 go through the buffers of 1 or 4, and more rows through the dynamic graph."""
    bundle = tiny.save(tmp_path / "b", sampler={"method": "test", "batch_sizes": [4, 1]})
    backend = load_backend(bundle, "cpu")
    rng = np.random.default_rng(3)
    for n in (1, 2, 4, 5, 3, 1):
        obs = rng.normal(size=(n, 3)).astype(np.float32)
        noise = rng.normal(size=(n, 4)).astype(np.float32)
        action = backend.act(obs, noise)
        np.testing.assert_allclose(action, tiny.expected_action(obs, noise), atol=1e-6)


def test_two_threads_are_pinned_and_give_the_same(tiny, bundle_path, monkeypatch):
    golden = tiny.golden()
    action = load_backend(bundle_path, "cpu", n_threads=2).act(golden["obs"], golden["noise"])
    np.testing.assert_allclose(action, golden["action"], atol=1e-6)
    monkeypatch.setattr(providers.os, "sched_getaffinity", lambda _: {3, 0, 5}, raising=False)
    assert [providers.affinities(n) for n in (1, 2, 3, 4)] == ["", "4", "4;6", ""]
