import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.foreign import DOUBLE, W, linear, model, value, written

from edp_robot.deploy.export import onnx_session
from edp_robot.deploy.wrap.command_map import CommandMap, command_map
from edp_robot.deploy.wrap.surgery import wrapped_graph
from policy_server.contract.field import limits
from sim.core.action_map import ActionMap
from sim.core.registry import task_spec

# The policy answers (0.5, 2.25) and (-0.5, -0.5).
OBS = np.array([[0.25, 1.0, 0.5], [-0.5, -0.25, 0.0]], np.float32)
FREE = np.full(2, np.inf)


def named(name, low=-FREE, high=FREE, metadata=None, spec=None):
    """The map `name` of two actions with these limits."""
    return command_map(name, spec, metadata or {}, np.array(low), np.array(high))


NONE = named("none")


def increments(scale, start):
    free = tuple(FREE)
    low = tuple(-FREE)
    return CommandMap(ActionMap("increment", scale, (0.0, 0.0), low, free, start), normalised=True)


def run(foreign, commands=NONE, obs=OBS, **feeds):
    data = wrapped_graph(foreign, commands)
    made = onnx.load_model_from_string(data)
    onnx.checker.check_model(made, full_check=True)
    assert not made.graph.value_info  # it would hold the batch size of the export
    session = onnx_session(data)
    ports = (*session.get_inputs(), *session.get_outputs())
    assert {node.type for node in ports} == {"tensor(float)"}
    return session.run(["action"], {"obs": obs, **feeds})[0]


def test_answers_in_units_pass_with_a_horizon_and_clipped_to_each_limit(tmp_path):
    foreign = written(linear(), tmp_path / "p.onnx")
    np.testing.assert_allclose(run(foreign), [[[0.5, 2.25]], [[-0.5, -0.5]]])
    limited = named("none", low=[-0.25, -9.0], high=[9.0, 2.0])
    np.testing.assert_allclose(run(foreign, limited), [[[0.5, 2.0]], [[-0.25, -0.5]]])


@pytest.mark.parametrize(("opset", "ir"), [(8, 3), (9, 4), (13, 7), (17, 9), (21, 10), (21, 13)])
def test_every_opset_is_kept_and_computes_the_same(tmp_path, opset, ir):
    made = linear(opset=opset, ir=ir)
    if ir == 3:  # then weights had to be inputs as well
        made.graph.input.append(value("W", onnx.TensorProto.FLOAT, 3, 2))
    foreign = written(made, tmp_path / "p.onnx")
    commands = increments((0.1, 0.2), start=1)  # the previous command stands in obs[1:3]
    expected = [[[1.0 + 0.05, 0.5 + 0.2]], [[-0.25 - 0.05, 0.0 - 0.1]]]
    np.testing.assert_allclose(run(foreign, commands), expected, rtol=1e-6)
    assert foreign.opset == opset


def test_metadata_scales_without_clipping_and_limits_spread_the_unit_box(tmp_path):
    foreign = written(linear(), tmp_path / "p.onnx")
    metadata = {"action_scale": "0.5", "default_joint_pos": "1.0,-1.0"}
    scaled = named("metadata", metadata=metadata)
    np.testing.assert_allclose(run(foreign, scaled), [[[1.25, 0.125]], [[0.75, -1.25]]])
    spread = named("limits", (-1.0, 0.0), (3.0, 1.0))  # half 2 and 0.5, middle 1 and 0.5
    np.testing.assert_allclose(run(foreign, spread), [[[2.0, 1.0]], [[0.0, 0.25]]])


def test_increments_of_a_horizon_add_up_from_the_command_in_the_observation(tmp_path):
    weights = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 0, 4]], np.float32)
    foreign = written(linear(weights=weights, shape=(-1, 2, 2)), tmp_path / "p.onnx")
    assert (foreign.horizon, foreign.act_dim) == (2, 2)
    commands = increments((0.1, 0.1), start=0)
    got = run(foreign, commands, obs=OBS[:1])  # answers (0.25, 1), (0.25, 3 -> 1); base (0.25, 1)
    np.testing.assert_allclose(got, [[[0.275, 1.1], [0.3, 1.2]]], rtol=1e-6)
    answers = np.array([[[0.25, 1.0], [0.25, 3.0]]])
    np.testing.assert_allclose(commands.unlimited(OBS[:1], answers), got, rtol=1e-6)


def test_a_tasks_map_is_the_tasks_own(tmp_path):
    spec = task_spec("arm-reach-left")
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(22, 6)).astype(np.float32)
    foreign = written(linear(weights=weights), tmp_path / "p.onnx")
    obs = rng.uniform(-2, 2, (50, 22)).astype(np.float32)
    commands = command_map("task", spec, {}, *limits(spec.action))
    expected = spec.action_map.chunk(obs, np.clip(obs @ weights, -1, 1), 1)
    np.testing.assert_allclose(run(foreign, commands, obs=obs), expected, atol=1e-6)


def test_doubles_become_floats_and_foreign_names_never_meet_ours(tmp_path):
    foreign = written(linear(obs="action", output="obs", kind=DOUBLE), tmp_path / "p.onnx")
    np.testing.assert_allclose(run(foreign), [[[0.5, 2.25]], [[-0.5, -0.5]]])


def test_noise_of_any_name_and_shape_becomes_a_vector(tmp_path):
    flat = written(linear(noise="z"), tmp_path / "p.onnx", noise="z")
    noise = np.array([[1.0, -1.0], [0.0, 0.5]], np.float32)
    np.testing.assert_allclose(run(flat, noise=noise), [[[1.5, 1.25]], [[-0.5, 0.0]]])
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["a"]),
        helper.make_node("ReduceSum", ["z", "axes"], ["b"], keepdims=0),
        helper.make_node("Add", ["a", "b"], ["mu"]),
    ]
    weights = [numpy_helper.from_array(W, "W"), numpy_helper.from_array(np.array([1]), "axes")]
    inputs = [value("x", 1, "n", 3), value("z", 1, "n", 2, 2)]
    made = model(nodes, inputs, [value("mu", 1, "n", 2)], weights)
    deep = written(made, tmp_path / "q.onnx", noise="z")
    assert deep.latent_dim == 4
    got = run(deep, noise=np.array([[1, 2, 3, 4], [0, 0, 0, 0]], np.float32))  # sums (4, 6)
    np.testing.assert_allclose(got, [[[4.5, 8.25]], [[-0.5, -0.5]]])


def test_a_batch_of_one_stays_and_another_fixed_size_is_freed(tmp_path):
    one = wrapped_graph(written(linear(batch=1), tmp_path / "p.onnx"), NONE)
    assert onnx_session(one).get_inputs()[0].shape == [1, 3]
    made = linear(batch=4)
    inside = value("action", onnx.TensorProto.FLOAT, 4, 2)  # an edge inside the graph
    made.graph.value_info.append(inside)
    four = written(made, tmp_path / "p.onnx")
    np.testing.assert_allclose(run(four), [[[0.5, 2.25]], [[-0.5, -0.5]]])
    six = four.act(np.repeat(OBS, 3, 0), np.zeros((6, 0)))
    np.testing.assert_allclose(six[::3, 0], [[0.5, 2.25], [-0.5, -0.5]])


def test_weights_that_only_a_subgraph_reads_are_kept_and_the_rest_is_cut(tmp_path):
    def branch(op):
        node = helper.make_node(op, ["obs", "W"], ["inner"])
        return helper.make_graph([node], op, [], [value("inner", 1, "n", 2)])

    branches = {"then_branch": branch("MatMul"), "else_branch": branch("MatMul")}
    choose = helper.make_node("If", ["yes"], ["actions"], **branches)
    waste = helper.make_node("Mul", ["obs", "big"], ["values"])
    weights = [numpy_helper.from_array(np.array(True), "yes"), numpy_helper.from_array(W, "W")]
    weights.append(numpy_helper.from_array(np.ones(3, np.float32), "big"))
    outputs = [value("actions", 1, "n", 2), value("values", 1, "n", 3)]
    made = model([choose, waste], [value("obs", 1, "n", 3)], outputs, weights)
    foreign = written(made, tmp_path / "p.onnx")
    np.testing.assert_allclose(run(foreign), [[[0.5, 2.25]], [[-0.5, -0.5]]])
    assert [node.op_type for node in foreign.model.graph.node] == ["If"]
    assert {tensor.name for tensor in foreign.model.graph.initializer} == {"yes", "W"}
