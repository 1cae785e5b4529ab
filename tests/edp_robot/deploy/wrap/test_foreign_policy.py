import hashlib

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.foreign import FLOAT, INT64, W, linear, model, value, written

from edp_robot.deploy.wrap.foreign_file import WrapError
from edp_robot.deploy.wrap.foreign_policy import read_policy


def identity(source, name, *dims, kind=FLOAT):
    """One more node for `linear(extra=...)`: an output that the answer does not need."""
    return helper.make_node("Identity", [source], [name]), [], [value(name, kind, *dims)]


def one(op, dims, out=None, kind=FLOAT, **attributes):
    """A graph of one node, x (dims) to y (out)."""
    node = helper.make_node(op, [] if op == "Constant" else ["x"], ["y"], **attributes)
    return model([node], [value("x", FLOAT, *dims)], [value("y", kind, *(out or dims))], opset=12)


@pytest.mark.parametrize(
    ("names", "picked"),
    [
        (("odd",), "odd"),
        (("values", "Actions"), "Actions"),
        (("mean", "action"), "action"),
        (("std", "mu"), "mu"),
    ],
)
def test_the_answer_is_guessed_by_its_name_or_because_it_is_alone(tmp_path, names, picked):
    extra = [identity("W", name, 3, 2) for name in names if name != picked]
    foreign = written(linear(output=picked, extra=extra), tmp_path / "p.onnx")
    assert (foreign.output, foreign.obs) == (picked, "obs")
    assert (foreign.obs_dim, foreign.act_dim, foreign.horizon) == (3, 2, 1)


def test_outputs_without_a_known_name_are_listed_with_their_shapes(tmp_path):
    made = linear(output="addmm_5", extra=[identity("W", "linear_2", 3, 2)])
    with pytest.raises(WrapError, match=r"'addmm_5': \['n', 2\].*--output NAME"):
        written(made, tmp_path / "p.onnx")
    assert read_policy(tmp_path / "p.onnx", output="addmm_5").output == "addmm_5"
    with pytest.raises(WrapError, match=r"no output 'action'; the graph has .*addmm_5"):
        read_policy(tmp_path / "p.onnx", output="action")


def test_inputs_that_the_answer_does_not_need_do_not_matter(tmp_path):
    extra = (
        helper.make_node("Identity", ["time_step"], ["t"]),
        [value("time_step", INT64, 1)],
        [value("t", INT64, 1)],
    )
    foreign = written(linear(extra=[extra]), tmp_path / "p.onnx")
    answer = foreign.act(np.array([[1, 2, 4]], np.float32), np.zeros((1, 0)))
    np.testing.assert_allclose(answer, [[[3.0, 6.0]]])


def test_noise_must_be_named_unless_it_is_called_so(tmp_path):
    assert written(linear(noise="noise"), tmp_path / "p.onnx").latent_dim == 2
    with pytest.raises(WrapError, match="--noise NAME says so"):
        written(linear(noise="z"), tmp_path / "q.onnx")
    assert read_policy(tmp_path / "q.onnx", noise="z").noise == "z"
    with pytest.raises(WrapError, match=r"no input 'eps' .*'obs': .*'z'"):
        read_policy(tmp_path / "q.onnx", noise="eps")


def test_random_numbers_drawn_inside_are_refused(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["obs", "W"], ["mean"]),
        helper.make_node("RandomNormalLike", ["mean"], ["eps"]),
        helper.make_node("Add", ["mean", "eps"], ["actions"]),
    ]
    outputs = [value("actions", FLOAT, "n", 2), value("mean", FLOAT, "n", 2)]
    made = model(nodes, [value("obs", FLOAT, "n", 3)], outputs, [numpy_helper.from_array(W, "W")])
    with pytest.raises(WrapError, match=r"RandomNormalLike.*export the deterministic policy"):
        written(made, tmp_path / "p.onnx")
    assert read_policy(tmp_path / "p.onnx", output="mean").act_dim == 2


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (linear(opset=7, ir=3), "opset 7, expected 8 or later"),
        (
            linear(output="action", weights=np.ones((3, 2), np.int64), kind=INT64),
            "tensor.int64.*pictures",
        ),
        (one("Identity", (1, 3, 8, 8)), r"\[1, 3, 8, 8\]: expected the observation"),
        (one("Identity", (3,)), r"tensor.float. \[3\]"),
        (one("Identity", ("n", "d")), r"\['n', 'd'\].*numbers for the dimensions"),
        (one("ArgMax", ("n", 3), ("n", 1), INT64, axis=1), r"int64.*discrete actions"),
        (
            one("ReduceSum", ("n", 3), ("n",), axes=[1], keepdims=0),
            r"float32 \(2,\) for 2 observations",
        ),
        (one("Magic", ("n", 3), domain="elsewhere"), "ONNX Runtime refused the graph"),
        (
            one("Constant", ("n", 3), (3, 2), value=numpy_helper.from_array(W)),
            "depends on no observation",
        ),
    ],
)
def test_what_is_no_policy_is_refused_with_its_shapes(tmp_path, made, message):
    with pytest.raises(WrapError, match=message):
        written(made, tmp_path / "p.onnx")


def test_files_that_are_not_onnx_or_not_there(tmp_path):
    with pytest.raises(WrapError, match="no such file"):
        read_policy(tmp_path / "p.onnx")
    (tmp_path / "p.onnx").write_bytes(b"\x80\x04PK not protobuf")
    with pytest.raises(WrapError, match="not an ONNX file"):
        read_policy(tmp_path / "p.onnx")


def test_weights_beside_the_file_are_found_hashed_and_missed(tmp_path):
    path = tmp_path / "p.onnx"
    onnx.save(linear(), path, save_as_external_data=True, location="p.data", size_threshold=0)
    foreign = read_policy(path)
    np.testing.assert_allclose(
        foreign.act(np.ones((1, 3), np.float32), np.zeros((1, 0))), [[[1.5, 2.5]]]
    )
    both = path.read_bytes() + (tmp_path / "p.data").read_bytes()
    assert foreign.sha256 == hashlib.sha256(both).hexdigest()
    (tmp_path / "p.data").unlink()
    with pytest.raises(WrapError, match=r"\['p.data'\] is not beside it; copy it there"):
        read_policy(path)


def test_weights_from_elsewhere_are_never_read(tmp_path):
    made = linear()
    onnx.external_data_helper.set_external_data(
        made.graph.initializer[0], location="../secret", length=24
    )
    made.graph.initializer[0].ClearField("raw_data")
    made.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    (tmp_path / "secret").write_bytes(bytes(24))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(WrapError, match=r"weights from \['../secret'\]"):
        read_policy(tmp_path / "in" / "p.onnx")
