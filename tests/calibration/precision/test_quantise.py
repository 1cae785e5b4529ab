"""The graphs that `edp calibrate quant` makes, against numbers worked out by hand."""

import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from support.graphs import make_graph

from calibration.file import CalibrationError
from calibration.precision.half import to_fp16
from calibration.precision.int8 import to_int8
from calibration.precision.layers import load_onnx, load_quantization, network, read_graph
from policy_server.runtime.onnxruntime import OnnxPolicy

GRID = np.linspace(-1, 1, 2001, dtype=np.float32)[:, None]
NOTHING = np.zeros((len(GRID), 1), np.float32)
WRAPPED = [  # a network with a normaliser before it and an action map behind it
    ("Sub", "obs centre", "condition"),
    ("Gemm", "condition w1", "h1"),
    ("Tanh", "h1", "h2"),
    ("Gemm", "h2 w2", "h3"),
    ("Mul", "h3 scale", "step"),
    ("Add", "obs step", "command"),
]


def act(graph, obs, noise=None):
    return OnnxPolicy(graph, "cpu").act(obs, NOTHING[: len(obs)] if noise is None else noise)[:, 0]


def rounded(graph, obs, noise):
    """Returns answers with every float16 result rounded; ONNX Runtime's CPU drops most casts."""
    feeds = {"obs": obs, "noise": noise}
    return ReferenceEvaluator(onnx.load_from_string(graph)).run(None, feeds)[0][:, 0]


def types_of(graph):
    """Returns the element type of every tensor."""
    model = onnx.load_from_string(graph)
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def test_the_network_is_what_lies_between_layers():
    constants = {"centre": [0.0], "w1": [[1.0]], "w2": [[1.0]], "scale": 1.0}
    graph = read_graph(make_graph(WRAPPED, constants, (1, 1, 1))).graph
    assert [graph.node[i].op_type for i in sorted(network(graph))] == ["Gemm", "Tanh", "Gemm"]


def test_fp16_leaves_what_is_around_the_network_exact():
    """The network answers 0, so the command is the obs. Float16 would move it by up to 4.9e-4."""
    constants = {"centre": [0.3], "w1": [[1.0]], "w2": [[0.0]], "scale": 0.03}
    obs = 1.2 + 0.1 * GRID
    assert np.abs(obs.astype(np.float16) - obs).max() > 4.8e-4
    graph = to_fp16(make_graph(WRAPPED, constants, (1, 1, 1)))
    assert np.array_equal(act(graph, obs), obs)
    assert np.array_equal(rounded(graph, obs, NOTHING), obs)


def test_fp16_rounds_inside_the_network():
    """1 + 2^-12 is 1 in float16, and 1 + 3 * 2^-12 is 1 + 2^-10."""
    nodes = [("Gemm", "obs w1", "h1"), ("Gemm", "h1 w2", "command")]
    constants = {"w1": [[1 + 2**-12]], "w2": [[1 + 3 * 2**-12]]}
    graph = to_fp16(make_graph(nodes, constants, (1, 1, 1)))
    assert act(graph, np.ones((1, 1), np.float32)) == 1 + 2**-10
    found = types_of(graph)
    outside = ("obs", "noise", "action", "command")
    inside = ("obs__fp16", "w1__fp16", "h1__fp16", "w2__fp16", "command__fp16")
    assert {found[name] for name in outside} == {TensorProto.FLOAT}
    assert {found[name] for name in inside} == {TensorProto.FLOAT16}
    assert not {"w1", "w2", "h1"} & set(found)  # no float32 copy is carried along


def test_fp16_does_not_spoil_a_constant_that_both_sides_use():
    nodes = [
        ("Gemm", "obs w", "h1"),
        ("Mul", "h1 tenth", "h2"),
        ("Gemm", "h2 none", "h3"),
        ("Mul", "obs tenth", "kept"),
        ("Add", "kept h3", "command"),
    ]
    constants = {"w": np.eye(2), "tenth": [0.1, 0.1], "none": np.zeros((2, 2))}
    graph = to_fp16(make_graph(nodes, constants, (2, 1, 2)))
    obs = np.repeat(GRID, 2, axis=1)
    assert np.array_equal(rounded(graph, obs, NOTHING), obs * np.float32(0.1))
    assert types_of(graph)["tenth__fp16"] == TensorProto.FLOAT16


def test_fp16_leaves_a_solver_between_two_calls_exact():
    """x = 1 + 2^-11 is 1 in float16. Divided by alpha = 2^-7, the difference is 0.06."""
    nodes = [
        ("Gemm", "noise none", "eps"),
        ("Mul", "eps sigma", "moved"),
        ("Sub", "noise moved", "left"),
        ("Div", "left alpha", "x"),
        ("Gemm", "x none", "eps2"),
        ("Sub", "x eps2", "command"),
    ]
    graph = to_fp16(make_graph(nodes, {"none": [[0.0]], "sigma": 0.9, "alpha": 2**-7}, (1, 1, 1)))
    noise = np.array([[1 + 2**-11]], np.float32)
    assert rounded(graph, noise, noise) == act(graph, noise, noise) == 128 + 2**-4


def test_fp16_of_a_graph_without_layers_is_refused():
    with pytest.raises(CalibrationError, match="no MatMul, Gemm or Conv"):
        to_fp16(make_graph([("Tanh", "obs", "command")], {}, (1, 1, 1)))


def int8_identity(layer):
    """Returns two layers that pass their input on. The weight of the second is exact in int8."""
    nodes = [(layer, "obs w1", "h1"), (layer, "h1 w2", "command")]
    return make_graph(nodes, {"w1": [[1.0]], "w2": [[1.0]]}, (1, 1, 1))


@pytest.mark.parametrize("layer", ["Gemm", "MatMul"])
@pytest.mark.parametrize("largest", [1.0, 3.0])
def test_int8_errs_by_half_a_level(layer, largest):
    """In a range of +-A the levels are A / 127 apart, so the error is at most A / 254."""
    obs = largest * GRID
    graph = to_int8(int8_identity(layer), obs, NOTHING)
    error = np.abs(act(graph, obs) - obs).max()
    assert 0.97 * largest / 254 < error < 1.001 * largest / 254


def test_int8_clips_what_calibration_did_not_see():
    graph = to_int8(int8_identity("Gemm"), GRID, NOTHING)
    answers = act(graph, np.array([[2.0], [-2.0]], np.float32)).ravel()
    assert answers == pytest.approx([1.0, -1.0], rel=0.01)


def test_int8_weights_have_a_scale_a_column_and_seven_bits():
    """Columns of 1 and of 1e-3: with one scale for both, the small one would be 0."""
    nodes = [("Gemm", "obs w1", "h1"), ("Gemm", "h1 w2", "command")]
    constants = {"w1": [[1.0]], "w2": [[1.0, 1e-3]]}
    graph = to_int8(make_graph(nodes, constants, (1, 1, 2)), GRID, NOTHING)
    error = np.abs(act(graph, GRID) - GRID * np.array([1, 1e-3])).max(0)
    assert error[1] == pytest.approx(error[0] / 1000, rel=0.02)
    tensors = onnx.load_from_string(graph).graph.initializer
    weights = [numpy_helper.to_array(t) for t in tensors if t.dims == [1, 2]]
    assert [(w.dtype, np.abs(w).max()) for w in weights] == [(np.int8, 64)]


def test_int8_without_rows_or_layers_is_refused():
    with pytest.raises(CalibrationError, match="0 rows of calibration data"):
        to_int8(int8_identity("Gemm"), GRID[:0], NOTHING[:0])
    one_layer = make_graph([("Gemm", "obs w", "command")], {"w": [[1.0]]}, (1, 1, 1))
    with pytest.raises(CalibrationError, match="behind the first layer"):
        to_int8(one_layer, GRID, NOTHING)


def test_int8_is_calibrated_along_the_sampler():
    """Each of three denoise steps has two layers of weight 1 and halves x.

    So the layers after the first see A, A/2, A/2, A/4, A/4.
    """
    nodes = []
    for x, y in (("noise", "x1"), ("x1", "x2"), ("x2", "command")):
        nodes += [
            ("Gemm", f"{x} one", f"{y}h"),
            ("Gemm", f"{y}h one", f"{y}d"),
            ("Mul", f"{y}d half", y),
        ]
    graph = make_graph(nodes, {"one": [[1.0]], "half": 0.5}, (1, 1, 1))
    largest = 3.0
    model = onnx.load_from_string(to_int8(graph, NOTHING, largest * GRID))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    rounding = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    scales = [float(values[node.input[1]]) for node in rounding]
    expected = [largest / d for d in (1, 2, 2, 4, 4)]
    assert 127 * np.sort(scales)[::-1] == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_a_teacher_from_torch_runs_in_both():
    """It has residual blocks, layer norms and an embedding of time, and two denoise steps."""
    from edp_robot.deploy.export import to_onnx
    from edp_robot.deploy.policies import DiffusionPolicy
    from edp_robot.diffusion.networks import NoiseModel
    from edp_robot.methods.models import normaliser
    from sim.core.registry import task_spec

    torch.manual_seed(0)
    spec = task_spec("arm-press")
    model = NoiseModel(spec.act_dim, spec.obs_dim, width=16, inner=16, n_blocks=1)
    for weights in model.parameters():
        torch.nn.init.normal_(weights, 0, 0.2)  # a new head answers 0
    graph = to_onnx(DiffusionPolicy(normaliser(spec), model, spec.act_dim, 2), spec, 1)
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(200, 22)).astype(np.float32)
    noise = rng.standard_normal((200, 6), dtype=np.float32)
    exact = act(graph, obs, noise)  # steps of up to 0.03 rad
    half, small = (
        np.abs(act(g, obs, noise) - exact).mean()
        for g in (to_fp16(graph), to_int8(graph, obs, noise))
    )
    assert 0 < half < small / 5
    assert small < 1e-3


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    for name, load in (("onnx", load_onnx), ("onnxruntime", load_quantization)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(CalibrationError, match=rf"{name}.*pip install 'edp-robot\[train\]'"):
            load()


def test_other_bytes_are_refused():
    with pytest.raises(CalibrationError, match="not one that onnx"):
        read_graph(b"not a graph")
