import hashlib
import math

import numpy as np
import onnx
import onnx.reference
import pytest
from onnx import TensorProto
from support.foreign import known, linear, written
from support.house import ROOT

from edp_robot.deploy.export import N_GOLDEN, PARITY_SHARE, SOLVER_SHARE, ParityError
from edp_robot.deploy.wrap import make_bundle as stage
from edp_robot.deploy.wrap.command_map import command_map
from edp_robot.deploy.wrap.foreign_file import WrapError
from edp_robot.deploy.wrap.known_fields import Draft, Known
from edp_robot.deploy.wrap.make_bundle import draw, wrap
from edp_robot.deploy.wrap.surgery import wrapped_graph
from policy_server.contract.bundle import save
from policy_server.contract.errors import BackendError
from policy_server.contract.field import Field
from policy_server.control.local import LocalPolicy
from policy_server.runtime.base import load_backend
from policy_server.runtime.tolerance import FP32_SHARE


def test_a_bundle_holds_what_was_said_and_answers_what_the_original_does(tmp_path):
    foreign = written(linear(metadata={"run_path": "team/run/1"}, opset=13), tmp_path / "p.onnx")
    made = wrap(foreign, known(limit=2.0), tmp_path / "b")
    m = made.bundle.manifest
    assert (m.name, m.task, m.source_commit, m.control_period_s) == (
        "tiny",
        "none",
        "team/run/1",
        0.02,
    )
    assert m.config_hash == hashlib.sha256((tmp_path / "p.onnx").read_bytes()).hexdigest()
    assert (m.latent_dim, m.horizon, m.n_action_steps) == (0, 1, 1)
    assert (m.sampler["method"], m.sampler["n_denoise_steps"]) == ("wrapped", 1)
    assert (m.sampler["opset"], m.sampler["batch_sizes"]) == (13, [1])
    assert m.parity["max_abs_error"] < 1e-6
    assert m.parity["n"] == 1024
    (motor,) = m.action
    assert (motor.name, len(motor), motor.unit, motor.max_rate) == ("motor", 2, "V", None)
    backend = load_backend(made.bundle, "cpu")
    assert backend.self_test() == 0
    obs = np.array([[0.25, 0.5, 0.5], [2.0, -2.0, 0.0]], np.float32)  # (0.5, 1.25), (2, -4 -> -2)
    got = backend.act(obs, np.zeros((2, 0), np.float32))
    np.testing.assert_allclose(got, [[[0.5, 1.25]], [[2.0, -2.0]]])


def test_noise_and_a_horizon_reach_the_bundle(tmp_path):
    weights = np.ones((3, 4), np.float32)
    made = linear(weights=weights, shape=(-1, 2, 2), noise="z", batch=1)
    foreign = written(made, tmp_path / "p.onnx", noise="z")
    bundle = wrap(foreign, known(limit=50.0), tmp_path / "b").bundle
    assert (bundle.manifest.latent_dim, bundle.manifest.horizon) == (4, 2)
    assert bundle.manifest.source_commit == "wrapped"
    backend = load_backend(bundle, "cpu")
    assert backend.self_test() == 0
    noise = np.array([[1, 2, 3, 4], [0, 0, 0, 0]], np.float32)
    got = backend.act(np.array([[1, 1, 1], [0, 1, 0]], np.float32), noise)
    np.testing.assert_allclose(got, [[[4, 5], [6, 7]], [[1, 1], [1, 1]]])
    golden = bundle.golden()["noise"]
    assert abs(golden.mean()) < 4 / math.sqrt(golden.size)
    assert 0.7 < golden.std() < 1.3


def test_the_share_of_clipped_commands_is_counted(tmp_path):
    foreign = written(linear(weights=np.eye(2, dtype=np.float32)), tmp_path / "p.onnx")
    made = wrap(foreign, known(obs_dim=2, limit=1.0), tmp_path / "b")
    # obs are uniform in [-2, 2], so half of the answers are clipped
    assert abs(made.clipped - 0.5) < 4 * 0.5 / math.sqrt(2 * 1024)


def test_a_wrapped_graph_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    foreign = written(linear(), tmp_path / "p.onnx")
    other = written(linear(weights=np.full((3, 2), 1.00003, np.float32)), tmp_path / "q.onnx")
    real = stage.wrapped_graph
    monkeypatch.setattr(stage, "wrapped_graph", lambda _, *rest: real(other, *rest))
    with pytest.raises(ParityError, match="nothing was written"):
        wrap(foreign, known(), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_parity_is_relative_to_the_range_of_the_limits(tmp_path):
    foreign = written(linear(weights=np.eye(2, dtype=np.float32)), tmp_path / "p.onnx")
    limit = np.array([9.0, 9.0])
    graph = wrapped_graph(foreign, command_map("none", None, {}, -limit, limit))
    expected = {
        "obs": np.array([[0.5, 0.25]] * 64, np.float32),
        "noise": np.zeros((64, 0), np.float32),
        "action": np.array([[[0.5 + 1e-4, 0.25]]] * 64),
    }
    ten = (Field("motor", 0, 2, "V", (-10, -10), (10, 10)),)
    parity, _ = stage.check(graph, foreign, expected, ten)
    assert parity["max_abs_error"] == pytest.approx(1e-4, rel=1e-3)
    assert parity["max_relative_error"] == pytest.approx(5e-6, rel=1e-3)
    free = (Field("motor", 0, 2, "V", (-math.inf,) * 2, (math.inf,) * 2),)
    with pytest.raises(ParityError, match=r"motor\[0\] by 0\.0001 V"):  # of the largest, 0.5
        stage.check(graph, foreign, expected, free)


def test_answers_that_are_no_numbers_are_refused(tmp_path):
    foreign = written(linear(weights=np.full((3, 2), np.nan, np.float32)), tmp_path / "p.onnx")
    with pytest.raises(ParityError, match=r"from 1024 of 1024 finite obs.*in MatMul \(action\)"):
        wrap(foreign, known(), tmp_path / "b")


def test_a_batch_size_baked_into_the_graph_is_named(tmp_path):
    foreign = written(linear(batch=4, shape=(4, 1, 2)), tmp_path / "p.onnx")
    message = "its batch size 4 is baked in: export with batch 1 or free"
    with pytest.raises(WrapError, match=message):
        wrap(foreign, known(limit=9.0), tmp_path / "b")


def test_drawn_observations_stay_inside_finite_limits_and_near_zero_without():
    inf = math.inf
    low = (-1.0, -inf, 10.0, -inf, -3.4e38)
    high = (-0.5, inf, inf, -10.0, 3.4e38)
    obs = draw((Field("x", 0, 5, "1", low, high),), 4000, np.random.default_rng(0))
    expected = ((-1, -0.5), (-3, 3), (10, 16), (-16, -10), (-3, 3))
    for column, (a, b) in zip(obs.T, expected, strict=True):
        margin = 0.01 * (b - a)  # 4000 draws come that near to both ends
        assert a <= column.min() < a + margin
        assert b - margin < column.max() <= b
    assert obs.dtype == np.float32


def test_nothing_is_written_while_something_is_missing(tmp_path):
    foreign = written(linear(), tmp_path / "p.onnx")
    with pytest.raises(WrapError, match="control_hz"):
        wrap(foreign, Known(known().obs, (Draft("a", 2),), action_map="none"), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_the_page_says_the_numbers_of_the_code(tmp_path):
    page = " ".join((ROOT / "docs" / "your_policy.md").read_text().split())
    for text in (
        f"{stage.N_PARITY} observations are drawn inside their limits ([-3, 3] where",
        f"the first {N_GOLDEN} become golden vectors",
        "A difference above 1e-5 of the range",
        "`edp export` of a student | 1e-5 |",
        "which multiplies what float32 rounds | 2.5e-5 |",
        "on another processor | 5e-5 |",
    ):
        assert text in page
    assert (PARITY_SHARE, SOLVER_SHARE, FP32_SHARE) == (1e-5, 2.5e-5, 5e-5)
    assert stage.UNBOUNDED == 3
    foreign = written(linear(), tmp_path / "p.onnx")
    bundle = wrap(foreign, known(limit=9.0), tmp_path / "b").bundle
    assert len(bundle.golden()["obs"]) == N_GOLDEN


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_a_graph_of_other_floats_is_wrapped_and_served(tmp_path, kind):
    """0.1 and 0.3 are rounded in float16 as the original rounds them."""
    weights = np.array([[0.1, 0], [0, 0.3], [1, 1]], np.float32)
    foreign = written(linear(kind=kind, weights=weights, noise="z"), tmp_path / "p.onnx", noise="z")
    bundle = wrap(foreign, known(limit=9.0), tmp_path / "b").bundle
    is_half = kind == TensorProto.FLOAT16
    assert bundle.manifest.parity.get("rounding", 0.0) == (2**-9 if is_half else 0.0)
    backend = load_backend(bundle, "cpu")
    backend.self_test()
    obs = np.array([[0.7, 0.9, 0.1]], np.float32)
    noise = np.array([[0.2, -0.4]], np.float32)
    got = backend.act(obs, noise)
    numpy_kind = np.float16 if is_half else np.float64
    expected = obs.astype(numpy_kind) @ weights.astype(numpy_kind) + noise.astype(numpy_kind)
    np.testing.assert_allclose(got[0], expected, atol=2**-9 if is_half else 1e-6)
    with LocalPolicy(bundle.path, "cpu") as policy:
        assert policy.act(obs[0]).shape == (1, 2)


def test_a_float16_graph_on_another_processor_is_the_same_policy(tmp_path):
    """Golden answers off by one rounding of float16 are served; off by 1 % they are not."""
    weights = np.eye(2, dtype=np.float32)
    foreign = written(linear(kind=TensorProto.FLOAT16, weights=weights), tmp_path / "p.onnx")
    bundle = wrap(foreign, known(obs_dim=2, limit=1.0), tmp_path / "b").bundle
    golden = bundle.golden()
    for share, fits in ((2**-11, True), (0.01, False)):
        moved = {**golden, "action": golden["action"] + np.float32(2 * share)}
        other = save(
            tmp_path / "o", bundle.manifest, onnx_bytes=bundle.read("policy.onnx"), golden=moved
        )
        if fits:
            load_backend(other, "cpu").self_test()
        else:
            with pytest.raises(BackendError, match="self-test failed"):
                load_backend(other, "cpu").self_test()


def test_a_number_that_float16_cannot_hold_is_no_command(tmp_path):
    foreign = written(
        linear(kind=TensorProto.FLOAT16, weights=np.eye(2, dtype=np.float32)), tmp_path / "p.onnx"
    )
    bundle = wrap(foreign, known(obs_dim=2, limit=1.0), tmp_path / "b").bundle
    # ONNX Runtime's CPU computes in float32 here, a GPU rounds as this does
    rounding = onnx.reference.ReferenceEvaluator(onnx.load_from_string(bundle.read("policy.onnx")))
    with np.errstate(over="ignore", invalid="ignore"):
        (got,) = rounding.run(None, {"obs": np.array([[1e5, 0.5]], np.float32)})
    assert np.isnan(got).any()
