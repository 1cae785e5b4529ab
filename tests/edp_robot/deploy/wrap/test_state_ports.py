"""Which outputs of a graph give the next value of which inputs."""

import numpy as np
import pytest
from onnx import helper
from support.foreign import DOUBLE, FLOAT, INT64, known, model, value, written

from edp_robot.deploy.wrap.foreign_file import WrapError
from edp_robot.deploy.wrap.make_bundle import wrap
from edp_robot.deploy.wrap.state_ports import StatePort, named_pairs
from policy_server.control.local import LocalPolicy


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        (["h_in", "c_in"], ["h_out", "c_out"]),  # rsl_rl, mjlab
        (["state"], ["next_state"]),
        (["hidden"], ["new_hidden"]),
        (["hidden_state", "cell_state"], ["hidden_state_out", "cell_state_out"]),
        (["h0", "c0"], ["hn", "cn"]),  # torch's documentation
        (["h_0", "c_0"], ["h_n", "c_n"]),
        (["state_in_0", "state_in_1"], ["state_out_0", "state_out_1"]),  # RLlib
        (["recurrent_in"], ["recurrent_out"]),  # ML-Agents
        (["past_kv_0", "past_kv_1"], ["present_kv_0", "present_kv_1"]),
        (["prevState"], ["nextState"]),
    ],
)
def test_pairs_are_known_by_their_names(inputs, outputs):
    found = named_pairs(["obs", *inputs], ["actions", "value", *reversed(outputs)])
    assert found == dict(zip(inputs, outputs, strict=True))


def test_names_that_fit_twice_tell_nothing():
    assert named_pairs(["h_in"], ["h_out", "h_next"]) == {}
    assert named_pairs(["h_in", "h_prev"], ["h_out"]) == {}
    assert named_pairs(["hidden"], ["76"]) == {}
    assert named_pairs(["input"], ["output"]) == {}


def test_a_row_of_a_state_is_taken_out_and_put_back():
    rows = np.arange(24, dtype=np.float32).reshape(3, 8)  # 3 sessions, 2 layers, 4 units
    port = StatePort("h", "h_out", (2, 4), 1)
    whole = port.unpacked(rows)
    assert whole.shape == (2, 3, 4)
    np.testing.assert_array_equal(whole[1, 2], rows[2, 4:])
    np.testing.assert_array_equal(port.packed(whole, 3), rows)
    with pytest.raises(
        WrapError, match=r"'h_out' has shape \(3, 2, 4\), its input 'h' \(2, 3, 4\)"
    ):
        port.packed(whole.swapaxes(0, 1), 3)


def summing(batch="n", kind=FLOAT, names=("total", "76"), state=(2,), extra=()):
    """A policy that answers the sum of the episode's observations, with its state."""
    before, after = names
    dims = [batch, *state]
    nodes = [
        helper.make_node("Cast", ["obs"], ["x"], to=kind),
        helper.make_node("Add", ["x", before], [after]),
        helper.make_node("Cast", [after], ["action"], to=FLOAT),
    ]
    outputs = [value("action", FLOAT, batch, 2), value(after, kind, *dims), *extra]
    inputs = [value("obs", FLOAT, batch, 2), value(before, kind, *dims)]
    return model(nodes, inputs, outputs)


def assert_sums(foreign, folder):
    bundle = wrap(foreign, known(obs_dim=2, limit=1000.0), folder).bundle
    with LocalPolicy(bundle.path, "cpu") as policy:
        for _ in range(2):
            policy.reset()
            got = [policy.act(np.float32([1.0, -2.0]))[0].tolist() for _ in range(3)]
            assert got == [[1, -2], [2, -4], [3, -6]]
    return bundle.manifest


@pytest.mark.parametrize("kind", [FLOAT, DOUBLE, INT64])
def test_a_pair_without_a_telling_name_is_asked_for_and_may_be_said(tmp_path, kind):
    made = summing(kind=kind)
    with pytest.raises(WrapError, match=r"'total': .*'76': .*--state IN:OUT"):
        written(made, tmp_path / "p.onnx")
    foreign = written(made, tmp_path / "p.onnx", states=("total:76",))
    manifest = assert_sums(foreign, tmp_path / "b")
    assert manifest.sampler["states"] == [["total", "76", [2]]]


@pytest.mark.parametrize("text", ["total", "total:77", "76:total", "action:76"])
def test_a_pair_that_the_graph_does_not_have_is_refused(tmp_path, text):
    with pytest.raises(
        WrapError, match=rf"--state {text}: expected INPUT:OUTPUT.*\['obs', 'total'"
    ):
        written(summing(), tmp_path / "p.onnx", states=(text,))


def test_the_answer_itself_may_be_the_next_state(tmp_path):
    """A policy that takes its own last answer."""
    nodes = [helper.make_node("Add", ["obs", "last_action"], ["action"])]
    inputs = [value("obs", FLOAT, "n", 2), value("last_action", FLOAT, "n", 2)]
    made = model(nodes, inputs, [value("action", FLOAT, "n", 2)])
    foreign = written(made, tmp_path / "p.onnx", states=("last_action:action",))
    assert_sums(foreign, tmp_path / "b")


def test_a_state_that_only_another_state_needs_is_kept(tmp_path):
    """The answer is the observation before last."""
    nodes = [
        helper.make_node("Identity", ["a_in"], ["action"]),
        helper.make_node("Identity", ["b_in"], ["a_out"]),
        helper.make_node("Identity", ["obs"], ["b_out"]),
    ]
    inputs = [value(name, FLOAT, "n", 2) for name in ("obs", "a_in", "b_in")]
    outputs = [value(name, FLOAT, "n", 2) for name in ("action", "a_out", "b_out")]
    foreign = written(model(nodes, inputs, outputs), tmp_path / "p.onnx")
    bundle = wrap(foreign, known(obs_dim=2, limit=9.0), tmp_path / "b").bundle
    with LocalPolicy(bundle.path, "cpu") as policy:
        got = [policy.act(np.float32([k, k]))[0, 0] for k in (1, 2, 3, 4)]
    assert got == [0, 0, 1, 2]


@pytest.mark.parametrize("fixed", ["state", "both"])
def test_a_state_without_a_batch_is_that_of_one_session(tmp_path, fixed):
    """Exports often free the observation's batch and forget the state's."""
    made = summing(names=("s_in", "s_out"))
    ports = [made.graph.input[1], made.graph.output[1]]
    for port in ports if fixed == "state" else (*made.graph.input, *made.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = 1
    foreign = written(made, tmp_path / "p.onnx")
    assert foreign.batch == 1
    assert_sums(foreign, tmp_path / "b")


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            summing(names=("s_in", "s_out"), batch=4),
            "fixed batch size 4: expected 1 or an open one",
        ),
        (summing(names=("s_in", "s_out"), state=("len", 2)), "a state that grows cannot be served"),
        (
            model(
                [
                    helper.make_node("Add", ["obs", "s_in"], ["action"]),
                    helper.make_node("ReduceSum", ["action"], ["s_out"], keepdims=0),
                ],
                [value("obs", FLOAT, "n", 2), value("s_in", FLOAT, "n", 2)],
                [value("action", FLOAT, "n", 2), value("s_out", FLOAT)],
            ),
            r"state output 's_out' has shape \(\)",
        ),
    ],
)
def test_states_that_cannot_be_served_are_refused(tmp_path, made, message):
    with pytest.raises(WrapError, match=message):
        written(made, tmp_path / "p.onnx")


def test_a_second_observation_is_not_taken_for_a_state(tmp_path):
    nodes = [helper.make_node("Add", ["obs", "goal"], ["action"])]
    inputs = [value("obs", FLOAT, "n", 2), value("goal", FLOAT, "n", 2)]
    made = model(nodes, inputs, [value("action", FLOAT, "n", 2)])
    with pytest.raises(WrapError, match="Several observation vectors: concatenate them"):
        written(made, tmp_path / "p.onnx")
