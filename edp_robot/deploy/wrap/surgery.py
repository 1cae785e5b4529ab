"""The ONNX surgery: puts a foreign graph between a bundle's inputs and its output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edp_robot.deploy.export import BATCH_DIM
from edp_robot.deploy.wrap.command_map import CommandMap
from edp_robot.deploy.wrap.foreign_policy import Foreign, replace_all

PREFIX = "policy/"  # before every name of the foreign graph, so that none equals one of ours
OURS = "edp/"


def wrapped_graph(foreign: Foreign, commands: CommandMap) -> bytes:
    """Returns the graph (obs, noise) -> action (batch, horizon, act_dim), float32.

    The map from answers to commands and the limits are inside. The foreign nodes keep their opset;
    only what the answer does not need is gone. A batch that was fixed at 1 stays fixed. Another
    fixed size is freed, and the parity check tells whether the graph still works.

    Args:
        foreign: The policy.
        commands: What makes commands of its answers.
    """
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    graph = model.graph
    _prefix(graph)
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    nodes = Nodes()
    nodes.feed("obs", PREFIX + foreign.obs, kinds[PREFIX + foreign.obs])
    if foreign.noise:
        noise = PREFIX + foreign.noise
        nodes.feed("noise", noise, kinds[noise], foreign.noise_shape)
    n_before = len(nodes.made)
    shape = (foreign.horizon, foreign.act_dim)
    answer = nodes.add("Cast", PREFIX + foreign.output, to=TensorProto.FLOAT)
    answer = nodes.add("Reshape", answer, _shape(shape))
    limited = _limited(nodes, _commands(nodes, answer, commands, foreign.horizon), commands)
    nodes.add("Identity", limited, output="action")
    before = nodes.made[:n_before]
    replace_all(graph.node, [*before, *graph.node, *nodes.made[n_before:]])
    graph.initializer.extend(nodes.constants)
    batch = 1 if foreign.batch == 1 else BATCH_DIM
    inputs = [_info("obs", batch, (foreign.obs_dim,))]
    if foreign.noise:
        inputs.append(_info("noise", batch, (foreign.latent_dim,)))
    replace_all(graph.input, inputs)
    replace_all(graph.output, [_info("action", batch, shape)])
    del graph.value_info[:]  # they may hold the batch size of the export
    return model.SerializeToString()


class Nodes:
    """Nodes and constants under construction. Their operators mean the same from opset 8 on."""

    def __init__(self) -> None:
        self.made: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(
        self, op: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: int
    ) -> str:
        """Returns the output's name of a new node.

        Args:
            op: Name of the operator.
            inputs: Names; arrays become constants.
            output: Name of the output. None: a new one.
            attributes: Attributes of the operator.
        """
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        output = output or f"{OURS}{op}_{len(self.made)}"
        node = helper.make_node(op, names, [output], **attributes)  # type: ignore[arg-type]
        self.made.append(node)
        return output

    def feed(self, ours: str, foreign: str, kind: int, shape: tuple[int, ...] = ()) -> None:
        """Adds the nodes that make a foreign input of our input.

        Args:
            ours: Name of our input.
            foreign: Name of the foreign input.
            kind: Type of its numbers (onnx.TensorProto).
            shape: Its dimensions after the batch, if there are several.
        """
        if len(shape) > 1:
            ours = self.add("Reshape", ours, _shape(shape))
        self.add("Cast", ours, output=foreign, to=kind)

    def _constant(self, value: np.ndarray) -> str:
        name = f"{OURS}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _commands(nodes: Nodes, answers: str, commands: CommandMap, horizon: int) -> str:
    """Returns the name of `CommandMap.unlimited` of the answers (batch, horizon, act_dim)."""
    m = commands.action_map
    if commands.normalised:
        answers = nodes.add("Min", nodes.add("Max", answers, _floats(-1.0)), _floats(1.0))
    moved = nodes.add("Mul", answers, _floats(m.scale))
    if m.kind == "absolute":
        return nodes.add("Add", moved, _floats(m.offset))
    where = np.arange(m.command_start, m.command_start + len(m.scale), dtype=np.int64)
    base = nodes.add("Reshape", nodes.add("Gather", "obs", where, axis=1), _shape((1, len(where))))
    ones = np.tril(np.ones((horizon, horizon), np.float32))
    sums = nodes.add("MatMul", ones, moved)  # CumSum exists from opset 11 on
    return nodes.add("Add", base, sums)


def _limited(nodes: Nodes, command: str, commands: CommandMap) -> str:
    """Returns the name of the clipped commands; Clip would take one limit for all joints."""
    limits = (("Max", commands.action_map.low), ("Min", commands.action_map.high))
    for op, limit in limits:
        if np.isfinite(limit).any():
            command = nodes.add(op, command, _floats(limit))
    return command


def _prefix(graph: onnx.GraphProto) -> None:
    """Puts PREFIX before every name of a graph and its subgraphs.

    `onnx.compose.add_prefix` forgets weights that only a subgraph reads.
    """
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [PREFIX + name if name else "" for name in names]
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _prefix(inner)
    for named in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        named.name = PREFIX + named.name
    for sparse in graph.sparse_initializer:
        sparse.values.name = PREFIX + sparse.values.name


def _info(name: str, batch: int | str, dims: tuple[int, ...]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *dims])


def _shape(dims: tuple[int, ...]) -> np.ndarray:
    return np.array([-1, *dims], np.int64)


def _floats(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)
