import tracemalloc

import numpy as np
import pytest

from policy_server.contract.bundle import Bundle, extend, graph_name
from policy_server.contract.errors import BackendError
from policy_server.runtime import base as backends
from policy_server.runtime.base import OnnxPolicy
from policy_server.runtime.onnxruntime import gpu
from policy_server.runtime.onnxruntime import providers as sessions


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
    backend = backends.load(
        tiny.save(tmp_path / "b", onnx_bytes=tiny.onnx_bytes(final="Log")), "cpu"
    )
    with pytest.raises(BackendError, match="max abs error nan"):
        backend.self_test(atol=1e9)


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
    monkeypatch.setattr(gpu, "present", lambda: False)
    for provider in ("cuda", "tensorrt"):
        with pytest.raises(BackendError, match=rf"{provider} needs an NVIDIA GPU.*available: cpu"):
            backends.load(bundle_path, provider)
    assert backends.load(bundle_path, "auto").provider == "cpu"


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
    found = {name for names, _ in sum(gpu.LIBRARIES.values(), ()) for name in names} - {
        absent,
        "libnvinfer.so.10",
    }
    real = gpu.missing_libraries

    def load(name):
        if name not in found:
            raise OSError(name)

    monkeypatch.setattr(gpu, "missing_libraries", lambda provider: real(provider, load))
    with pytest.raises(BackendError, match=f"provider {provider} {said}"):
        backends.load(bundle_path, provider)


def test_a_provider_that_does_not_load_is_no_silent_fallback(bundle_path, monkeypatch):
    """All that was asked for seems to be there, and ONNX Runtime falls back to the CPU all the same."""
    monkeypatch.setattr(gpu, "present", lambda: True)
    monkeypatch.setattr(gpu, "missing_libraries", lambda provider: [])
    monkeypatch.setattr(gpu, "complaint", lambda folder, provider: "")
    import onnxruntime

    class Fallen(onnxruntime.InferenceSession):
        def __init__(self, graph, options, providers, enable_fallback):
            super().__init__(graph, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", Fallen)
    with pytest.raises(BackendError, match="provider cuda did not load"):
        backends.load(bundle_path, "cuda")
    assert backends.load(bundle_path, "auto").provider == "cpu"


def test_a_raw_graph_needs_no_bundle(tiny, tmp_path):
    (tmp_path / "teacher.onnx").write_bytes(tiny.onnx_bytes())
    golden = tiny.golden()
    action = OnnxPolicy(tmp_path / "teacher.onnx", "cpu", n_threads=2).act(
        golden["obs"], golden["noise"]
    )
    np.testing.assert_allclose(action, golden["action"], atol=1e-6)


def test_every_number_of_rows_gives_the_same_actions(tiny, tmp_path):
    """Through the buffers of the static sizes 1 and 4, padded or not, and beyond them through the dynamic graph."""
    bundle = tiny.save(tmp_path / "b", sampler={"method": "test", "batch_sizes": [4, 1]})
    backend, rng = backends.load(bundle, "cpu"), np.random.default_rng(3)
    for n in (1, 2, 4, 5, 3, 1):
        obs, noise = (
            rng.normal(size=(n, 3)).astype(np.float32),
            rng.normal(size=(n, 4)).astype(np.float32),
        )
        np.testing.assert_allclose(
            backend.act(obs, noise), tiny.expected_action(obs, noise), atol=1e-6
        )


def test_an_answer_is_not_overwritten_by_the_next_and_out_is_used(tiny, bundle_path):
    backend, golden = backends.load(bundle_path, "cpu"), tiny.golden()
    first = backend.act(golden["obs"][:1], golden["noise"][:1])
    kept, out = first.copy(), np.zeros((1, 2, 2), np.float32)
    assert backend.act(golden["obs"][1:2], golden["noise"][1:2], out=out) is out
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_allclose(out, golden["action"][1:2], atol=1e-6)
    many = np.zeros((5, 2, 2), np.float32)
    assert backend.act(golden["obs"], golden["noise"], out=many) is many
    np.testing.assert_allclose(many, golden["action"], atol=1e-6)


def test_act_with_out_allocates_nothing(bundle_path):
    """Ten thousand calls leave no object behind, and hold none at a time that the first did not."""
    backend = backends.load(bundle_path, "cpu")
    obs, noise = backend.golden["obs"][:1].copy(), backend.golden["noise"][:1].copy()
    out = backend.act(obs, noise)
    backend.act(obs, noise, out=out)
    tracemalloc.start()
    for _ in range(100):
        backend.act(obs, noise, out=out)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(10_000):
        backend.act(obs, noise, out=out)
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now - before < 1024 and peak - before < 4096


def test_the_self_test_goes_through_every_static_size(tiny, tmp_path):
    """Five golden vectors are more than any size here: in one call they would pass by all of them."""
    bundle = tiny.save(tmp_path / "b", sampler={"batch_sizes": [1, 4]})
    for size in (1, 4):
        backend = backends.load(bundle, "cpu")
        graph = backend._policy._ready[size][0]
        graph.run = lambda graph=graph: graph.action.fill(
            0.5
        )  # a captured graph that reads where nothing is written
        with pytest.raises(BackendError, match="self-test failed"):
            backend.self_test()


def test_nothing_is_stretched_to_fit(tiny):
    policy = OnnxPolicy(tiny.onnx_bytes())
    obs, noise = np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32)
    wrong = [(obs[:, :1], noise, None), (obs, noise[:, :1], None), (obs, noise[0], None)]
    wrong += [
        (obs, noise, np.zeros((1, 2, 1), np.float32)),
        (obs, noise, np.zeros((3, 2, 2), np.float32)),
    ]
    for each in wrong:
        with pytest.raises(BackendError, match=r"expected \(1, 3\), \(1, 4\), \(1, 2, 2\)"):
            policy.act(*each)


def test_more_rows_than_buffers_go_in_chunks_where_the_batch_is_not_dynamic(tiny):
    policy, golden = OnnxPolicy(tiny.onnx_bytes(), batch_sizes=(1, 2)), tiny.golden()
    policy._dynamic, out = False, np.zeros((5, 2, 2), np.float32)
    policy._session = None
    assert policy.act(golden["obs"], golden["noise"], out) is out
    np.testing.assert_allclose(out, golden["action"], atol=1e-6)
    fixed = OnnxPolicy(tiny.onnx_bytes(batch=1))
    np.testing.assert_allclose(
        fixed.act(golden["obs"], golden["noise"]), golden["action"], atol=1e-6
    )
    assert fixed.act(golden["obs"][:0], golden["noise"][:0]).shape == (0, 2, 2)


@pytest.mark.parametrize("sizes", ["1", [0], [1, 2000], [1.5], [True]])
def test_batch_sizes_that_are_none_are_refused(tiny, tmp_path, sizes):
    bundle = tiny.save(tmp_path / "b", sampler={"batch_sizes": sizes})
    with pytest.raises(BackendError, match="expected a list of whole numbers from 1 to 1024"):
        backends.load(bundle, "cpu")


def test_another_precision_is_loaded_and_tested_by_its_own_error(tiny, tmp_path):
    bundle = tiny.save(tmp_path / "b")
    with pytest.raises(
        BackendError, match=r"'int8' is not in the bundle; it has fp32; `edp calibrate quant`"
    ):
        backends.load(bundle, "cpu", precision="int8")
    rough = tiny.onnx_bytes(tiny.W + np.float32(0.01))
    error = np.abs(
        np.tanh(tiny.golden()["obs"] @ (tiny.W + 0.01) + tiny.golden()["noise"] @ (0.1 * np.eye(4)))
    )
    error = float(np.abs(error - np.abs(tiny.golden()["action"].reshape(5, 4))).max())
    more = extend(bundle, {graph_name("int8"): rough}, {"int8": {"golden_max_abs_error": error}})
    assert backends.load(more, "cpu", precision="int8").self_test() == pytest.approx(
        error, abs=1e-5
    )
    less = extend(more, {}, {"int8": {"golden_max_abs_error": error / 2}})
    with pytest.raises(BackendError, match="self-test failed"):
        backends.load(less, "cpu", precision="int8").self_test()
    assert backends.load(less, "cpu").self_test() < 1e-6


def test_two_threads_are_pinned_and_give_the_same(tiny, bundle_path, monkeypatch):
    golden = tiny.golden()
    action = backends.load(bundle_path, "cpu", n_threads=2).act(golden["obs"], golden["noise"])
    np.testing.assert_allclose(action, golden["action"], atol=1e-6)
    monkeypatch.setattr(sessions.os, "sched_getaffinity", lambda _: {3, 0, 5}, raising=False)
    assert [sessions.affinities(n) for n in (1, 2, 3, 4)] == ["", "4", "4;6", ""]
