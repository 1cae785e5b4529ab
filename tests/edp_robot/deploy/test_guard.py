"""What an infinity inside a graph does to its answer."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from support.foreign import known, model, value, written
from support.graphs import make_graph

from calibration.precision.half import to_fp16
from calibration.precision.int8 import to_int8
from edp_robot.deploy import export as export_module
from edp_robot.deploy.export import ParityError, export, load_policy, onnx_session, to_onnx
from edp_robot.deploy.guard import GUARD, guarded
from edp_robot.deploy.policies import Deployed
from edp_robot.deploy.wrap.make_bundle import wrap
from policy_server.contract.bundle import save
from policy_server.contract.errors import PolicyError
from policy_server.contract.field import Field
from policy_server.contract.manifest import Manifest
from policy_server.control.local import LocalPolicy

TINY = np.finfo(np.float32).tiny
LIMITED = [("Max", "far low", "above"), ("Min", "above high", "command")]
LIMITS = {"low": -1.0, "high": 1.0}


def graph(nodes, constants, sizes=(2, 1, 2)):
    """A guarded graph, and how many nodes guard it."""
    made = guarded(onnx.load_from_string(make_graph(nodes, constants, sizes)))
    onnx.checker.check_model(made, full_check=True)
    n = sum(node.name.startswith(GUARD) for node in made.graph.node)
    return made.SerializeToString(), n


def answer(made, *rows):
    obs = np.array(rows, np.float32)
    feeds = {"obs": obs, "noise": np.zeros((len(obs), 1), np.float32)}
    names = [port.name for port in onnx_session(made).get_inputs()]
    return onnx_session(made).run(None, {name: feeds[name] for name in names})[0][:, 0]


@pytest.mark.parametrize(
    "hiding",
    [
        [("Tanh", "far", "command")],
        [("Sigmoid", "far", "command")],
        [("HardSigmoid", "far", "command")],
        [("Erf", "far", "command")],
        [("Clip", "far low high", "command")],
        LIMITED,
        [("Tanh", "far", "t"), ("MatMul", "t eye", "command")],
        [("Relu", "far", "t"), ("MatMul", "t eye", "far2"), ("Clip", "far2 low high", "command")],
        [("Reciprocal", "far", "command")],
        [("Div", "low far", "command")],
        [("Neg", "far", "t"), ("Exp", "t", "command")],
        [("Greater", "far low", "c"), ("Where", "c low high", "t"), ("Mul", "t obs", "command")],
        [("IsInf", "far", "c"), ("Where", "c low far", "command")],
    ],
    ids=lambda nodes: "-".join(node[0] for node in nodes),
)
def test_a_division_by_zero_does_not_become_a_command(hiding):
    """The second number is divided by 0. Row 0 has an infinity in it, row 1 has 0/0."""
    nodes = [("Div", "obs scale", "far"), *hiding]
    constants = {"scale": [1.0, 0.0], "eye": np.full((2, 2), 3.0), **LIMITS}
    plain = make_graph(nodes, constants, (2, 1, 2))
    assert np.isfinite(answer(plain, [0.5, 0.25])).all()  # what was served
    made, n_nodes = graph(nodes, constants)
    assert n_nodes > 0
    got = answer(made, [0.5, 0.25], [0.5, 0.0])
    assert np.isnan(got).any(axis=1).all()


def test_only_the_row_with_the_infinity_is_lost():
    made, _ = graph([("Div", "obs scale", "far"), *LIMITED], {"scale": [1.0, TINY], **LIMITS})
    got = answer(made, [0.5, 0.0], [0.5, 9.0], [0.25, -0.0])
    np.testing.assert_array_equal(got[[0, 2]], [[0.5, 0], [0.25, 0]])
    assert np.isnan(got[1]).any()


def test_a_graph_without_danger_gets_no_node():
    """Sums, products and sane divisions of an observation, between limits and layers."""
    nodes = [
        ("Sub", "obs centre", "a"),
        ("Div", "a scale", "b"),
        ("Clip", "b low high", "c"),
        ("MatMul", "c eye", "d"),
        ("Tanh", "d", "e"),
        ("MatMul", "e eye", "f"),
        ("Relu", "f", "g"),
        ("MatMul", "g eye", "command"),
    ]
    constants = {"centre": [1.0, 2.0], "scale": [2.0, 0.1], "eye": np.eye(2), **LIMITS}
    assert graph(nodes, constants)[1] == 0


def test_a_limit_of_the_answer_takes_three_nodes():
    nodes = [("MatMul", "obs eye", "far"), *LIMITED]
    made, n_nodes = graph(nodes, {"eye": np.eye(2), **LIMITS})
    assert n_nodes == 3  # Reshape, Mul, Add; the second limit reads what is guarded
    np.testing.assert_array_equal(answer(made, [0.5, 7.0], [-3.0, 0.0]), [[0.5, 1], [-1, 0]])


@pytest.mark.parametrize(
    ("kind", "hidden"), [(TensorProto.FLOAT16, "Identity"), (TensorProto.DOUBLE, "Exp")]
)
def test_an_answer_that_is_limited_in_another_float_type_is_guarded(kind, hidden):
    """The one tensor to guard has the answer's shape, and is not float32."""
    nodes = [
        ("Cast", "obs", "other"),
        (hidden, "other", "far"),
        ("Tanh", "far", "near"),
        ("Cast", "near", "command"),
    ]
    plain = onnx.load_from_string(make_graph(nodes, {}, (2, 1, 2)))
    casts = [node for node in plain.graph.node if node.op_type == "Cast"]
    for cast, to in zip(casts, (kind, TensorProto.FLOAT), strict=True):
        cast.attribute.append(helper.make_attribute("to", to))
    got = answer(guarded(plain).SerializeToString(), [0.5, 0.25], [0.5, 1e6])
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).any()


@pytest.mark.parametrize("opset", [8, 11, 13, 20])
def test_every_opset_that_wrap_takes(opset):
    """Two limits in a row of layers, of float64 and float32, and one over other rows."""
    nodes = [
        helper.make_node("MatMul", ["obs", "eye"], ["a"]),
        helper.make_node("Max", ["a", "low"], ["b"]),
        helper.make_node("MatMul", ["b", "eye"], ["c"]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[1, 0]),
        helper.make_node("Min", ["d", "high"], ["e"]),
        helper.make_node("Transpose", ["e"], ["f"], perm=[1, 0]),
        helper.make_node("Reshape", ["f", "shape"], ["action"]),
    ]
    constants = {"eye": np.eye(2) * 2.0, "low": np.array(-1.0), "high": np.array(1.0)}
    tensors = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    tensors.append(onnx.numpy_helper.from_array(np.array([-1, 1, 2]), "shape"))
    ports = (value("obs", TensorProto.FLOAT, "n", 2), value("action", TensorProto.FLOAT, "n", 1, 2))
    made = guarded(model(nodes, ports[:1], ports[1:], tensors, opset=opset))
    onnx.checker.check_model(made, full_check=True)
    np.testing.assert_array_equal(answer(made.SerializeToString(), [0.25, -9.0]), [[1, -2]])
    tensors[0].CopyFrom(onnx.numpy_helper.from_array(np.eye(2, dtype=np.float32) * 1e30, "eye"))
    made = guarded(model(nodes, ports[:1], ports[1:], tensors, opset=opset))
    assert np.isnan(answer(made.SerializeToString(), [1e20, 1.0])).any()


def test_wrap_refuses_a_normaliser_that_divides_by_zero(tmp_path):
    """The gripper's number never moved in training: its standard deviation is 0."""

    class Policy(torch.nn.Module):
        def forward(self, obs):
            unit = (obs - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([1.0, 2.0, 0.0])
            return torch.clamp(unit.clamp(-5, 5)[:, :2] + unit[:, 2:], -1, 1)

    path = tmp_path / "p.onnx"
    batch = ({0: torch.export.Dim("batch")},)
    names = {"input_names": ["obs"], "output_names": ["action"]}
    torch.onnx.export(Policy(), (torch.zeros(2, 3),), path, dynamic_shapes=batch, **names)
    foreign = written(onnx.load(path), tmp_path / "q.onnx")
    with pytest.raises(ParityError, match=r"1024 of 1024 finite obs.*first in Div"):
        wrap(foreign, known(limit=9.0), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_run_whose_normaliser_divides_by_zero_is_not_exported(student_run, tmp_path, monkeypatch):
    def broken(*args):
        item = load_policy(*args)
        item.policy.normaliser.scale[3] = 0
        return item

    monkeypatch.setattr(export_module, "load_policy", broken)
    with pytest.raises(ParityError, match=r"finite observations, first in Div"):
        export(student_run, tmp_path / "b")


def test_an_exported_network_that_overflows_answers_no_command(student_run):
    """torch clamps the infinity to a limit."""
    item = load_policy(student_run)
    spec = item.source.spec
    with torch.no_grad():
        item.policy.net[-1].weight.fill_(3e38)
        feeds = {"obs": np.ones((2, 22), np.float32), "noise": np.ones((2, 6), np.float32)}
        by_torch = Deployed(item.policy, spec.action_map, 10)(*map(torch.tensor, feeds.values()))
    assert torch.isfinite(by_torch).all()
    got = onnx_session(to_onnx(item.policy, spec, 10)).run(None, feeds)[0]
    assert np.isnan(got).any(axis=(1, 2)).all()


@pytest.fixture
def bundle_with_a_pole(tmp_path):
    """clip(1 / obs): the golden vectors stay clear of obs 0."""
    made, _ = graph([("Reciprocal", "obs", "far"), *LIMITED], LIMITS)
    obs = np.array([[0.5, 0.5]], np.float32)
    noise = np.zeros((1, 1), np.float32)
    manifest = Manifest(
        name="pole",
        task="none",
        source_commit="none",
        config_hash="none",
        obs=(Field("x", 0, 2, "1", (-1, -1), (1, 1)),),
        action=(Field("y", 0, 2, "1", (-1, -1), (1, 1)),),
        horizon=1,
        n_action_steps=1,
        control_period_s=0.1,
        latent_dim=1,
    )
    golden = {"obs": obs, "noise": noise, "action": np.ones((1, 1, 2), np.float32)}
    return save(tmp_path / "b", manifest, onnx_bytes=made, golden=golden).path


def test_a_served_policy_says_so(bundle_with_a_pole):
    with LocalPolicy(bundle_with_a_pole, "cpu") as policy:
        np.testing.assert_array_equal(policy.act(np.array([0.5, 0.25])), [[1, 1]])
        with pytest.raises(PolicyError, match="INTERNAL: the policy answered NaN or infinity"):
            policy.act(np.array([0.5, 0.0]))


def test_fp16_and_int8_versions_keep_the_guard():
    """A layer's 1e5 is infinite in float16. An int8 version keeps the infinity of the division."""
    nodes = [
        ("Gemm", "obs w", "h"),
        ("Relu", "h", "r"),
        ("Gemm", "r w", "far"),
        ("Clip", "far low high", "command"),
    ]
    made, _ = graph(nodes, {"w": [[300.0, 0.0], [0.0, 1.0]], **LIMITS})
    assert np.isfinite(answer(made, [10.0, 0.5])).all()
    half = onnx.reference.ReferenceEvaluator(onnx.load_from_string(to_fp16(made)))
    feeds = {"obs": np.array([[10, 0.5]], np.float32), "noise": np.zeros((1, 1), np.float32)}
    assert np.isnan(half.run(None, feeds)[0]).any()
    nodes[0] = ("Gemm", "x w", "h")
    nodes = [("Div", "obs scale", "wild"), ("Tanh", "wild", "x"), *nodes]
    made, _ = graph(nodes, {"w": np.eye(2), "scale": [1.0, 0.0], **LIMITS})
    rows = np.random.default_rng(0).uniform(0.1, 1, (64, 2)).astype(np.float32)
    eighth = to_int8(made, rows, np.zeros((64, 1), np.float32))
    assert np.isnan(answer(eighth, [0.5, 0.25])).any()
