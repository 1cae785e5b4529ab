"""The ONNX surgery: puts a foreign graph between a bundle's inputs and its output."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edp_robot.deploy.export import BATCH_DIM
from edp_robot.deploy.guard import guarded
from edp_robot.deploy.wrap.command_map import CommandMap
from edp_robot.deploy.wrap.foreign_policy import Foreign
from edp_robot.deploy.wrap.history import History
from edp_robot.deploy.wrap.pruning import replace_all
from edp_robot.deploy.wrap.state_ports import StatePort

PREFIX = "policy/"  # before every name of the foreign graph, so that none equals one of ours
OURS = "edp/"


def wrapped_graph(foreign: Foreign, commands: CommandMap, past: History | None = None) -> bytes:
    """Returns the graph (obs, noise) -> action (batch, horizon, act_dim), float32.

    With memory it is (obs, noise, state) -> (action, next_state). The state (batch, state_dim)
    holds the foreign states one after the other, and then the history.

    The map from answers to commands and the limits are inside. The foreign nodes keep their opset;
    only what the answer does not need is gone. A batch that was fixed at 1 stays fixed. Another
    fixed size is freed, and the parity check tells whether the graph still works.

    Args:
        foreign: The policy.
        commands: What makes commands of its answers.
        past: The history of observations that it sees. None: only the newest.
    """
    model = onnx.ModelProto()
    model.CopyFrom(foreign.model)
    graph = model.graph
    _prefix(graph)
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    nodes = Nodes()
    memory = _Memory(nodes, foreign, past)
    seen = memory.remember() if past else "obs"
    nodes.feed(seen, PREFIX + foreign.obs, kinds[PREFIX + foreign.obs], foreign.obs_shape)
    memory.feed(kinds)
    if foreign.noise:
        noise = PREFIX + foreign.noise
        nodes.feed("noise", noise, kinds[noise], foreign.noise_shape)
    n_before = len(nodes.made)
    shape = (foreign.horizon, foreign.act_dim)
    answer = nodes.add("Cast", PREFIX + foreign.output, to=TensorProto.FLOAT)
    answer = nodes.add("Reshape", answer, _shape(shape))
    limited = _limited(nodes, _commands(nodes, answer, commands, foreign.horizon), commands)
    nodes.add("Identity", limited, output="action")
    memory.collect()
    before = nodes.made[:n_before]
    replace_all(graph.node, [*before, *graph.node, *nodes.made[n_before:]])
    graph.initializer.extend(nodes.constants)
    batch = 1 if foreign.batch == 1 else BATCH_DIM
    inputs = [_info("obs", batch, (past.obs_dim if past else foreign.obs_dim,))]
    if foreign.noise:
        inputs.append(_info("noise", batch, (foreign.latent_dim,)))
    outputs = [_info("action", batch, shape)]
    if memory.state_dim:
        inputs.append(_info("state", batch, (memory.state_dim,)))
        outputs.append(_info("next_state", batch, (memory.state_dim,)))
    replace_all(graph.input, inputs)
    replace_all(graph.output, outputs)
    del graph.value_info[:]  # they may hold the batch size of the export
    return guarded(model).SerializeToString()


class Nodes:
    """Nodes and constants under construction. Their operators mean the same from opset 8 on."""

    def __init__(self) -> None:
        self.made: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(
        self, op: str, *inputs: str | np.ndarray, output: str | None = None, **attributes: Any
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
            shape: Its dimensions after the batch.
        """
        if len(shape) > 1:
            ours = self.add("Reshape", ours, _shape(shape))
        self.add("Cast", ours, output=foreign, to=kind)

    def _constant(self, value: np.ndarray) -> str:
        name = f"{OURS}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name


class _Memory:
    """The nodes around the state vector.

    Args:
        nodes: Where they are added.
        foreign: The policy with its states.
        past: Its history, or None.
    """

    def __init__(self, nodes: Nodes, foreign: Foreign, past: History | None) -> None:
        self._nodes = nodes
        self._ports = foreign.states
        self._past = past
        self._start = foreign.state_dim  # of the history
        self._kept: list[str] = []  # the history after this observation
        self.state_dim = foreign.state_dim + (past.state_dim if past else 0)

    def remember(self) -> str:
        """Returns the name of the history's observations (batch, n, obs_dim), flat and in order.

        In an empty memory, which is zeros, the new observation stands for all earlier ones.
        """
        past = self._past
        assert past is not None
        add = self._nodes.add
        first = self._start + 1
        is_filled = self._part(self._start, first)
        before = self._part(first, self.state_dim)
        is_new = add("Sub", _floats([1.0]), is_filled)
        again = add("Concat", *["obs"] * (past.n - 1), axis=1)
        earlier = add("Add", before, add("Mul", is_new, again))
        steps = add("Concat", earlier, "obs", axis=1)
        filled = add("Add", is_filled, is_new)
        newest = np.arange(past.obs_dim, past.n * past.obs_dim)
        self._kept = [filled, add("Gather", steps, newest, axis=1)]
        if np.array_equal(past.order, np.arange(past.n * past.obs_dim)):
            return steps
        return add("Gather", steps, past.order.astype(np.int64), axis=1)

    def feed(self, kinds: dict[str, int]) -> None:
        """Adds the nodes that make the foreign states of our state; `kinds` has their types."""
        start = 0
        for port in self._ports:
            end = start + port.size
            value = self._part(start, end)
            axis = port.batch_axis
            whole = np.array(port.shape if axis is None else (-1, *port.shape), np.int64)
            value = self._nodes.add("Reshape", value, whole)
            if axis:
                value = self._nodes.add("Transpose", value, perm=_moved(0, axis, len(whole)))
            name = PREFIX + port.input
            self._nodes.add("Cast", value, output=name, to=kinds[name])
            start = end

    def collect(self) -> None:
        """Adds the nodes that make our next state of the foreign ones."""
        parts = [self._packed(port) for port in self._ports]
        if self.state_dim:
            self._nodes.add("Concat", *parts, *self._kept, output="next_state", axis=1)

    def _packed(self, port: StatePort) -> str:
        """Returns the name of a port's next state (batch, size), float32."""
        value = self._nodes.add("Cast", PREFIX + port.output, to=TensorProto.FLOAT)
        if port.batch_axis:
            perm = _moved(port.batch_axis, 0, len(port.shape) + 1)
            value = self._nodes.add("Transpose", value, perm=perm)
        return self._nodes.add("Reshape", value, _shape((port.size,)))

    def _part(self, start: int, end: int) -> str:
        """Returns the name of some columns of the state."""
        if (start, end) == (0, self.state_dim):
            return "state"
        return self._nodes.add("Gather", "state", np.arange(start, end), axis=1)


def _moved(source: int, target: int, rank: int) -> list[int]:
    """Returns the permutation that moves an axis, as `numpy.moveaxis` does."""
    axes = [axis for axis in range(rank) if axis != source]
    axes.insert(target, source)
    return axes


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
