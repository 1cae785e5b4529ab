"""The ONNX surgery: a foreign graph between a bundle's inputs and output, its command map and limits inside."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edp_robot.deploy.export import BATCH_DIM
from edp_robot.deploy.wrap.command_map import CommandMap
from edp_robot.deploy.wrap.foreign_policy import Foreign, replace_all

PREFIX = "policy/"  # of every name of the foreign graph, so that none meets ours
OURS = "edp/"


def wrapped_graph(foreign: Foreign, cmap: CommandMap, low: np.ndarray, high: np.ndarray) -> bytes:
    """Returns the graph (obs, noise) -> action (batch, horizon, act_dim), float32, commands clipped to low and high.

    The foreign nodes are kept as they are, at their opset; only what the answer does not need is gone. A batch that
    was fixed at 1 stays so; another fixed size is freed, and the parity check says whether the graph bears it.

    Args:
        foreign: The policy.
        cmap: What makes commands of its answers.
        low: Limits (act_dim,); infinite where there is none.
        high: The same.
    """
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    graph, nodes = model.graph, Nodes()
    _prefix(graph)
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    nodes.feed("obs", PREFIX + foreign.obs, kinds[PREFIX + foreign.obs])
    if foreign.noise:
        nodes.feed(
            "noise", PREFIX + foreign.noise, kinds[PREFIX + foreign.noise], foreign.noise_shape
        )
    head = list(nodes.made)
    shape = (foreign.horizon, foreign.act_dim)
    answer = nodes.add(
        "Reshape", nodes.add("Cast", PREFIX + foreign.output, to=TensorProto.FLOAT), _shape(shape)
    )
    nodes.add(
        "Identity",
        _limited(nodes, _commands(nodes, answer, cmap, foreign.horizon), low, high),
        output="action",
    )
    replace_all(graph.node, [*head, *graph.node, *nodes.made[len(head) :]])
    graph.initializer.extend(nodes.constants)
    batch = 1 if foreign.batch == 1 else BATCH_DIM
    inputs = {
        "obs": (foreign.obs_dim,),
        **({"noise": (foreign.latent_dim,)} if foreign.noise else {}),
    }
    replace_all(graph.input, [_info(name, batch, dims) for name, dims in inputs.items()])
    replace_all(graph.output, [_info("action", batch, shape)])
    del graph.value_info[:]  # they may hold the batch size of the export
    return model.SerializeToString()


class Nodes:
    """Nodes and constants under construction, all of them of operators that mean the same from opset 8 on."""

    def __init__(self) -> None:
        self.made: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(
        self, op: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: int
    ) -> str:
        """Returns the output's name of a new node; arrays among its inputs become constants."""
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        output = output or f"{OURS}{op}_{len(self.made)}"
        self.made.append(helper.make_node(op, names, [output], **attributes))  # type: ignore[arg-type]
        return output

    def feed(self, ours: str, foreign: str, kind: int, shape: tuple[int, ...] = ()) -> None:
        """Adds what makes the foreign input of our input: the type of its numbers, and its shape where that differs."""
        if len(shape) > 1:
            ours = self.add("Reshape", ours, _shape(shape))
        self.add("Cast", ours, output=foreign, to=kind)

    def _constant(self, value: np.ndarray) -> str:
        name = f"{OURS}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name


def _commands(nodes: Nodes, answer: str, cmap: CommandMap, horizon: int) -> str:
    """Returns the name of `CommandMap.apply` of the answers (batch, horizon, act_dim)."""
    if cmap.normalised:
        answer = nodes.add("Min", nodes.add("Max", answer, _floats(-1.0)), _floats(1.0))
    moved = nodes.add("Mul", answer, _floats(cmap.scale))
    if cmap.kind == "absolute":
        return nodes.add("Add", moved, _floats(cmap.offset))
    where = np.arange(cmap.command_start, cmap.command_start + len(cmap.scale), dtype=np.int64)
    base = nodes.add("Reshape", nodes.add("Gather", "obs", where, axis=1), _shape((1, len(where))))
    sums = nodes.add(
        "MatMul", np.tril(np.ones((horizon, horizon), np.float32)), moved
    )  # CumSum is of opset 11
    return nodes.add("Add", base, sums)


def _limited(nodes: Nodes, command: str, low: np.ndarray, high: np.ndarray) -> str:
    """Returns the name of the clipped commands; Clip would take one number for all joints."""
    for op, limit in (("Max", low), ("Min", high)):
        if np.isfinite(limit).any():
            command = nodes.add(op, command, _floats(limit))
    return command


def _prefix(graph: onnx.GraphProto) -> None:
    """Puts PREFIX before every name of a graph and its subgraphs (`compose.add_prefix` forgets weights read there)."""
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


def _floats(values) -> np.ndarray:
    return np.asarray(values, np.float32)
