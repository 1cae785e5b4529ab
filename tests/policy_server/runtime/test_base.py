import tracemalloc

import numpy as np
import pytest
from support.serving import expected_action

from policy_server.contract.bundle import Bundle, extend, graph_name
from policy_server.contract.errors import BackendError
from policy_server.contract.field import Field
from policy_server.runtime.base import BACKENDS, CheckedBackend, load_backend


class Foreign:
    """The known function of the tiny policy, without a runtime."""

    provider = "cpu"

    def __init__(self, bundle, options):
        self.options = options
        self.answer = None

    def act(self, obs, noise):
        if self.answer is not None:
            return self.answer(obs, noise)
        return expected_action(obs, noise).astype(np.float32)


class OnNpu(Foreign):
    provider = "npu"


HERE = f"{__name__}:Foreign"


@pytest.fixture
def foreign(bundle_path):
    """Makes a checked backend of the tiny policy that answers what the given function answers."""
    bundle = Bundle.load(bundle_path)

    def make(answer=None):
        backend = Foreign(bundle, None)
        backend.answer = answer
        return CheckedBackend(backend, bundle, "fp32")

    return make


@pytest.mark.parametrize("backend", ["onnxruntime", HERE])
def test_answers_the_known_function(tiny, bundle_path, backend):
    made = load_backend(bundle_path, "cpu", backend=backend)
    rng = np.random.default_rng(2)
    obs = rng.normal(size=(7, 3))
    noise = rng.normal(size=(7, 4))
    action = made.act(obs, noise)
    assert action.dtype == np.float32 and action.shape == (7, 2, 2)
    np.testing.assert_allclose(action, tiny.expected_action(obs, noise), atol=1e-6)
    assert made.provider == "cpu"
    assert made.self_test() < 1e-6


def test_rows_of_a_batch_do_not_mix(tiny, bundle_path):
    backend = load_backend(Bundle.load(bundle_path), "cpu")
    golden = tiny.golden()
    whole = backend.act(golden["obs"], golden["noise"])
    rows = [backend.act(golden["obs"][i : i + 1], golden["noise"][i : i + 1])[0] for i in range(5)]
    np.testing.assert_allclose(whole, rows, atol=1e-6)


def test_a_backend_is_told_how_to_run(tiny, tmp_path):
    bundle = tiny.save(tmp_path / "b", sampler={"batch_sizes": [4, 1]})
    seen = []

    @BACKENDS.register("told")
    def told(bundle, options):
        seen.append((bundle, options))
        return Foreign(bundle, options)

    load_backend(bundle, "auto", n_threads=3, backend="told")
    [(given, options)] = seen
    assert given is bundle
    assert (options.provider, options.n_threads, options.precision) == ("auto", 3, "fp32")
    assert options.batch_sizes == (4, 1)


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("onnxrun", r"no inference backend 'onnxrun'.*Did you mean 'onnxruntime'"),
        ("no_such_module_here:Backend", "No module named 'no_such_module_here'"),
        ("os:Backend", "has no 'Backend'"),
    ],
)
def test_an_unknown_backend_is_named(bundle_path, backend, message):
    with pytest.raises(BackendError, match=message):
        load_backend(bundle_path, backend=backend)


def test_a_provider_is_used_or_refused(bundle_path):
    with pytest.raises(BackendError, match="expected one of auto, cpu, cuda, tensorrt"):
        load_backend(bundle_path, "gpu")
    with pytest.raises(
        BackendError, match=r"cuda was asked for.*Foreign runs on cpu; ask for auto"
    ):
        load_backend(bundle_path, "cuda", backend=HERE)
    assert load_backend(bundle_path, "auto", backend=f"{__name__}:OnNpu").provider == "npu"


def test_self_test_refuses_another_policy(tiny, tmp_path):
    weights = tiny.W + np.float32(0.01)
    backend = load_backend(tiny.save(tmp_path / "b", onnx_bytes=tiny.onnx_bytes(weights)), "cpu")
    message = r"arm_target\[\d\] by 0\.0\d+ rad, allowed is 9\.\d+e-05"  # 5e-5 of 1.8 rad
    with pytest.raises(BackendError, match=message):
        backend.self_test()
    assert 0.001 < backend.self_test(atol=1.0) < 0.1


def test_self_test_refuses_nan(tiny, tmp_path):
    bundle = tiny.save(tmp_path / "b", onnx_bytes=tiny.onnx_bytes(final="Log"))
    backend = load_backend(bundle, "cpu")
    with pytest.raises(BackendError, match="by nan rad"):
        backend.self_test(atol=1e9)


def test_the_self_test_goes_through_every_batch_size(tiny, tmp_path):
    """Five golden vectors are more than any size here, so one call alone would miss both."""
    bundle = tiny.save(tmp_path / "b", sampler={"batch_sizes": [1, 4]})
    for size in (1, 4):
        backend = load_backend(bundle, "cpu")
        graph = backend.buffers(size)
        # as a captured graph that reads where nothing is written
        graph.run = lambda graph=graph: graph.action.fill(0.5)
        with pytest.raises(BackendError, match="self-test failed"):
            backend.self_test()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda obs, noise: np.zeros((1, 2, 3), np.float32), r"float32 \(1, 2, 3\), expected"),
        (lambda obs, noise: np.zeros((1, 2, 2)), r"answered float64 \(1, 2, 2\), expected float32"),
        (lambda obs, noise: np.zeros((2, 2, 2), np.float32), r"expected float32 \(1, 2, 2\)"),
        (lambda obs, noise: 1 / 0, "inference failed on cpu: division by zero"),
    ],
)
def test_a_wrong_answer_is_refused_whatever_the_backend(foreign, answer, message):
    with pytest.raises(BackendError, match=message):
        foreign(answer).act(np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32))


def test_wrong_shapes_are_refused(bundle_path):
    backend = load_backend(bundle_path, "cpu")
    with pytest.raises(BackendError, match=r"expected \(2, 3\) and \(2, 4\)"):
        backend.act(np.zeros((2, 4)), np.zeros((2, 4)))


@pytest.mark.parametrize("backend", ["onnxruntime", HERE])
def test_buffers_hold_the_question_and_the_answer(tiny, bundle_path, backend):
    golden = tiny.golden()
    made = load_backend(bundle_path, "cpu", backend=backend)
    for n in (1, 3):
        buffers = made.buffers(n)
        buffers.obs[:n] = golden["obs"][:n]
        buffers.noise[:n] = golden["noise"][:n]
        buffers.run()
        np.testing.assert_allclose(buffers.action[:n], golden["action"][:n], atol=1e-6)


def test_an_answer_is_not_overwritten_by_the_next(tiny, bundle_path):
    backend = load_backend(bundle_path, "cpu")
    golden = tiny.golden()
    first = backend.act(golden["obs"][:1], golden["noise"][:1])
    kept = first.copy()
    backend.act(golden["obs"][1:2], golden["noise"][1:2])
    np.testing.assert_array_equal(first, kept)


def test_a_query_through_buffers_allocates_nothing(bundle_path):
    """Ten thousand calls leave no object behind, and hold none at a time that the first did not."""
    backend = load_backend(bundle_path, "cpu")
    buffers = backend.buffers(1)
    tracemalloc.start()
    for _ in range(100):
        buffers.run()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(10_000):
        buffers.run()
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert now - before < 1024 and peak - before < 4096


@pytest.mark.parametrize("sizes", ["1", [0], [1, 2000], [1.5], [True]])
def test_batch_sizes_that_are_none_are_refused(tiny, tmp_path, sizes):
    bundle = tiny.save(tmp_path / "b", sampler={"batch_sizes": sizes})
    with pytest.raises(BackendError, match="expected a list of whole numbers from 1 to 1024"):
        load_backend(bundle, "cpu")


def test_another_precision_is_loaded_and_tested_by_its_own_error(tiny, tmp_path):
    bundle = tiny.save(tmp_path / "b")
    message = r"'int8' is not in the bundle; it has fp32; `edp calibrate quant`"
    with pytest.raises(BackendError, match=message):
        load_backend(bundle, "cpu", precision="int8")
    rough = tiny.W + np.float32(0.01)
    golden = tiny.golden()
    answer = np.tanh(golden["obs"] @ rough + golden["noise"] @ (0.1 * np.eye(4)))
    error = float(np.abs(answer - golden["action"].reshape(5, 4)).max())
    graphs = {graph_name("int8"): tiny.onnx_bytes(rough)}
    more = extend(bundle, graphs, {"int8": {"golden_max_abs_error": error}})
    found = load_backend(more, "cpu", precision="int8").self_test()
    assert found == pytest.approx(error, abs=1e-5)
    less = extend(more, {}, {"int8": {"golden_max_abs_error": error / 2}})
    with pytest.raises(BackendError, match="self-test failed"):
        load_backend(less, "cpu", precision="int8").self_test()
    assert load_backend(less, "cpu").self_test() < 1e-6


def _with_limits(tiny, folder, low, high, difference, **more):
    """A bundle whose golden actions, in [low, high], are off by `difference`, and its backend."""
    scale = np.array([300.0, 300.0])
    middle = np.zeros(2)
    if max(high) < 1e6:
        scale = (np.array(high) - low) / 2
        middle = (np.array(high) + low) / 2
    golden = tiny.golden()
    right = (middle + scale * golden["action"]).astype(np.float32)

    class Scaled:
        provider = "cpu"

        def __init__(self, bundle, options): ...

        def act(self, obs, noise):
            unit = tiny.expected_action(obs, noise).astype(np.float32)
            return (middle + scale * unit).astype(np.float32)

    action = (Field("motor", 0, 2, "Nm", low, high),)
    golden = {**golden, "action": right + np.float32(difference)}
    bundle = tiny.save(folder, action=action, golden=golden, **more)
    return bundle, CheckedBackend(Scaled(bundle, None), bundle, "fp32")


INF = float("inf")


@pytest.mark.parametrize(
    ("low", "high", "same", "other"),
    [
        ((-300, -300), (300, 300), 0.02, 0.05),  # torques of another CPU: 3e-5 of the range
        ((-0.001, -0.001), (0.001, 0.001), 5e-8, 1e-6),  # a gripper in m: 0.05 % is another policy
        ((-1, -1), (1, 1), 9e-5, 1.2e-4),
        ((-INF, -INF), (INF, INF), 0.01, 0.05),  # no limits: the golden answers reach 300
        ((-3e38, -3e38), (3e38, 3e38), 0.01, 0.05),  # what Gymnasium writes for no limits
        ((999.999, 999.999), (1000.001, 1000.001), 6e-5, 5e-4),  # float32 knows 1000 to 6e-5
    ],
)
def test_the_self_test_allows_a_share_of_each_range(tiny, tmp_path, low, high, same, other):
    _with_limits(tiny, tmp_path / "a", low, high, same)[1].self_test()
    backend = _with_limits(tiny, tmp_path / "b", low, high, other)[1]
    with pytest.raises(BackendError, match=r"differ, motor\[\d\] by \S+ Nm, allowed is"):
        backend.self_test()


def test_each_action_is_held_to_its_own_range(tiny, tmp_path):
    """0.01 is nothing for 300 Nm and everything for 0.001 m, also with an error of its own."""
    low = (-300, -0.001)
    high = (300, 0.001)
    _with_limits(tiny, tmp_path / "a", low, high, [0.01, 0])[1].self_test()
    bundle, backend = _with_limits(tiny, tmp_path / "b", low, high, [0, 1e-5])
    with pytest.raises(BackendError, match=r"motor\[1\] by 1e-05"):
        backend.self_test()
    made = {"golden_max_abs_error": 6.0, "golden_abs_errors": [6.0, 1e-6]}
    extended = extend(bundle, {graph_name("int8"): b"graph"}, {"int8": made})
    with pytest.raises(BackendError, match=r"motor\[1\] by 1e-05"):
        CheckedBackend(backend, extended, "int8").self_test()


@pytest.mark.parametrize("parity", [{}, {"rounding": "x"}, {"rounding": None, "int8": 3}])
def test_a_manifest_with_other_parity_is_held_to_the_range_alone(tiny, tmp_path, parity):
    backend = _with_limits(tiny, tmp_path / "a", (-1, -1), (1, 1), 1e-3, parity=parity)[1]
    with pytest.raises(BackendError, match="self-test failed"):
        backend.self_test()
