"""Tiny foreign ONNX policies: answer = obs W (+ noise), under any names, types and opset."""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edp_robot.deploy.wrap.foreign_policy import read_policy
from edp_robot.deploy.wrap.known_fields import Draft, Known

# obs (a, b, c) -> answer (a + c/2, 2b + c/2)
W = np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.5]], np.float32)
FLOAT = TensorProto.FLOAT
DOUBLE = TensorProto.DOUBLE
INT64 = TensorProto.INT64


def value(name, kind, *dims):
    """An input or output of a graph."""
    return helper.make_tensor_value_info(name, kind, list(dims))


def model(nodes, inputs, outputs, weights=(), opset=17, ir=9, metadata=None):
    """A model of one graph."""
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, list(weights))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    helper.set_model_props(made, metadata or {})
    return made


def linear(
    obs="obs",
    output="actions",
    batch="n",
    kind=FLOAT,
    weights=W,
    shape=None,
    noise=None,
    extra=(),
    **options,
):
    """obs (batch, 3) -> output (batch, 2), or reshaped to `shape`.

    `extra` has (node, inputs, outputs) of nodes that the answer does not need.
    """
    n_obs, n_act = weights.shape
    numbers = weights.astype(helper.tensor_dtype_to_np_dtype(kind))
    tensors = [numpy_helper.from_array(numbers, "W")]
    name = "action" if "action" not in (output, obs) else "x"
    nodes = [helper.make_node("MatMul", [obs, "W"], [name])]
    inputs = [value(obs, kind, batch, n_obs)]
    dims = [n_act]
    if noise:
        inputs.append(value(noise, kind, batch, n_act))
        nodes.append(helper.make_node("Add", [name, noise], ["noisy"]))
        name = "noisy"
    if shape:
        tensors.append(numpy_helper.from_array(np.array(shape, np.int64), "shape"))
        nodes.append(helper.make_node("Reshape", [name, "shape"], [output]))
        dims = shape[1:]
    else:
        nodes.append(helper.make_node("Identity", [name], [output]))
    outputs = [value(output, kind, batch, *dims)]
    for node, more_inputs, more_outputs in extra:
        nodes.append(node)
        inputs += more_inputs
        outputs += more_outputs
    return model(nodes, inputs, outputs, tensors, **options)


def written(made, path, **options):
    """The policy in a file, read back."""
    onnx.save(made, path)
    return read_policy(path, **options)


def known(obs_dim=3, act_dim=2, limit=1.0, action_map="none", **more):
    """All that a bundle of such a policy needs."""
    obs = Draft("state", obs_dim, "1", (-2.0,), (2.0,), sources=("test",))
    limits = {"low": (-limit,), "high": (limit,), "max_rate": (math.inf,)}
    action = Draft("motor", act_dim, "V", **limits, sources=("test",))
    return Known((obs,), (action,), 50.0, action_map, 1, "tiny", **more)
