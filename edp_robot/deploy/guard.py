"""Makes a policy's graph answer NaN where an operator inside it would hide an infinity.

Clip turns infinity into a limit, Tanh into 1. A normaliser that divides by 0, or a float16 network
that overflows, would so become a full-range command that looks like any other. `guarded` adds 0
times what such an operator reads to the answer: that is 0, or NaN where it reads infinity or NaN.
Servers and clients refuse NaN. It goes straight to the answer, since a GPU's Max and Relu lose it.

To keep graphs fast, only what can be infinite is guarded. What is known of a tensor's numbers:

- held: they are moderate. Noise, what is guarded already, sums and products of such;
- finite: of any size, like an observation, and so large at worst that a limit is the right answer;
- layer: out of a matrix product. They are moderate in float32, and may overflow in float16;
- wild: they may be infinite.

Limits must not read layers, and other operators that hide an infinity neither, where no layer
follows. In between, an overflow of a layer saturates as the exact number would. Operators inside
If, Loop and Scan are not looked into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference

GUARD = "edp/guard/"
Kinds = dict[str, tuple[int, tuple[int | str, ...]]]  # type and shape by name
SMALLEST = 1e-6  # a divisor that is smaller makes moderate numbers huge
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
LAYERS = {"MatMul", "Gemm", "Conv", "ConvTranspose"}
LIMITS = {"Clip", "Min", "Max"}
SWALLOWING = {  # turn an infinity, or NaN, into a number or a choice
    *("Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "Softsign", "Erf", "Atan"),
    *("Relu", "Elu", "Selu", "Celu", "Gelu", "Softplus", "Mish", "ThresholdedRelu", "Swish"),
    *("Exp", "Reciprocal", "Sign", "IsNaN", "IsInf", "ArgMax", "ArgMin", "TopK", "Shrink"),
    *(
        "LSTM",
        "GRU",
        "RNN",
        "Greater",
        "Less",
        "GreaterOrEqual",
        "LessOrEqual",
        "Equal",
        "Cast",
        "QuantizeLinear",
    ),
}
SEVERAL = {"Min", "Max", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal"}  # inputs
BOUNDED = {*LIMITS, "Tanh", "Sigmoid", "HardSigmoid", "Softsign", "Erf", "Atan", "Sin", "Cos"}
MODERATE = {  # make no infinity of moderate numbers
    *("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split"),
    *("Gather", "GatherElements", "GatherND", "Expand", "Tile", "Concat", "Where", "Neg", "Abs"),
    *("Add", "Sub", "Mul", "Sum", "CumSum", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"),
    *("Softmax", "LayerNormalization", "BatchNormalization", "LeakyRelu", "PRelu", "Constant"),
    *SWALLOWING - {"Exp", "Reciprocal"},
}


class State(IntEnum):
    """What is known of a tensor's numbers, as this module's text says."""

    HELD = 0
    FINITE = 1
    LAYER = 2
    WILD = 3


def guarded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the graph (obs, noise) -> action with what guards its answer, if that is needed.

    Args:
        model: A policy's graph. It is not changed.
    """
    made = onnx.ModelProto()
    made.CopyFrom(inliner.inline_local_functions(model) if model.functions else model)
    walk = _Walk(made)
    names = list(dict.fromkeys(walk.names()))
    if names:
        _Adder(made, walk.kinds).guard(names)
    return made


class _Walk:
    """Follows a graph from its inputs, and finds what its operators must not read in silence."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = model.graph.node
        self.constants = _constants(model.graph)
        self.kinds = _kinds(model)
        self.states: dict[str, State] = {"obs": State.FINITE, "state": State.FINITE}
        self.before_layer = _upstream_of_layers(self.nodes)

    def names(self) -> Iterator[str]:
        """Yields the tensors to guard, in order."""
        for i, node in enumerate(self.nodes):
            least = State.WILD if i in self.before_layer else State.LAYER
            for name in self._read(node):
                if self._state(name) >= (State.LAYER if node.op_type in LIMITS else least):
                    self.states[name] = State.HELD
                    yield name
            state = self._result(node)
            self.states.update({name: state for name in node.output if name})

    def _state(self, name: str) -> State:
        """Returns what is known of a tensor; constants that are not finite are wild."""
        value = self.constants.get(name)
        if value is None:
            return self.states.get(name, State.HELD)
        is_finite = value.dtype.kind not in "fc" or np.isfinite(value).all()
        return State.HELD if is_finite else State.WILD

    def _read(self, node: onnx.NodeProto) -> list[str]:
        """Returns what a node reads and may hide an infinity of."""
        op = node.op_type
        names = []
        if op == "Div":
            names = node.input[1:]
        elif op in SWALLOWING | LIMITS and not _makes_floats(node):
            names = node.input if op in SEVERAL else node.input[:1]
        return [name for name in names if name and name not in self.constants and self._float(name)]

    def _float(self, name: str) -> bool:
        return self.kinds.get(name, (TensorProto.FLOAT, ()))[0] in FLOATS

    def _result(self, node: onnx.NodeProto) -> State:
        """Returns the state of what a node makes."""
        op = node.op_type
        worst = max((self._state(name) for name in node.input if name), default=State.HELD)
        if op in BOUNDED or op == "Shape":
            return State.HELD
        if op in LAYERS:
            return State.WILD if worst == State.WILD else State.LAYER
        if op == "Cast" and helper.get_node_attr_value(node, "to") == TensorProto.FLOAT16:
            return State.WILD if worst > State.HELD else worst
        is_safe = op in MODERATE or (op == "Div" and self._divides_well(node))
        return worst if is_safe else State.WILD

    def _divides_well(self, node: onnx.NodeProto) -> bool:
        """Returns whether the divisor is a constant that is not small."""
        value = self.constants.get(node.input[1])
        return value is not None and bool((np.abs(value) >= SMALLEST).all())


def _makes_floats(node: onnx.NodeProto) -> bool:
    """Returns whether a node only changes the type, to one that has infinities."""
    return node.op_type == "Cast" and helper.get_node_attr_value(node, "to") in FLOATS


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Returns the constants of a graph by name."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            held = helper.get_attribute_value(node.attribute[0])
            is_tensor = isinstance(held, TensorProto)
            values[node.output[0]] = numpy_helper.to_array(held) if is_tensor else np.array(held)
    return values


def _kinds(model: onnx.ModelProto) -> Kinds:
    """Returns type and shape of the tensors whose type is known, by name."""
    graph = shape_inference.infer_shapes(model).graph
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim),
        )
        for value in (*graph.input, *graph.value_info, *graph.output)
    }


def _upstream_of_layers(nodes: Sequence[onnx.NodeProto]) -> set[int]:
    """Returns the positions of the nodes that a layer's input depends on."""
    wanted: set[str] = set()
    found = set()
    for i in reversed(range(len(nodes))):
        leads = not wanted.isdisjoint(nodes[i].output)
        if leads:
            found.add(i)
        if leads or nodes[i].op_type in LAYERS:
            wanted.update(filter(None, nodes[i].input))
    return found


class _Adder:
    """Adds nodes to a policy's graph, and at the end what guards its answer."""

    def __init__(self, model: onnx.ModelProto, kinds: Kinds) -> None:
        self.graph = model.graph
        self.kinds = kinds
        self.opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self.zero = self._constant("zero", np.zeros((), np.float32))

    def guard(self, names: list[str]) -> None:
        """Adds 0 times the tensors `names` to the answer.

        It does so row by row, and where it cannot tell rows apart over the whole batch.
        """
        batch = self.kinds["obs"][1][0]
        width = self.kinds["action"][1][-1]
        shapes = [self.kinds.get(name, (0, ()))[1] for name in names]
        rows = [n for n, s in zip(names, shapes, strict=True) if len(s) == 2 and s[0] == batch]
        if len(names) == 1 and shapes[0] == (batch, width):
            terms = [self._columns(self._times_zero(names[0]), width)]
        elif len(names) == 1 and shapes[0] == self.kinds["action"][1]:
            terms = [self._times_zero(names[0])]
        else:
            others = (self._times_zero(name) for name in names if name not in rows)
            terms = [self._node("ReduceSum", term, keepdims=0) for term in others]
            terms += [self._sum_of_rows(rows)] if rows else []
        self._finish(terms)

    def _times_zero(self, name: str) -> str:
        """Returns 0 times a tensor, in float32."""
        if self.kinds.get(name, (TensorProto.FLOAT, ()))[0] != TensorProto.FLOAT:
            name = self._node("Cast", name, to=TensorProto.FLOAT)
        return self._node("Mul", name, self.zero)

    def _sum_of_rows(self, names: list[str]) -> str:
        """Returns 0 times the sum of the tensors (batch, n), as (batch, 1, 1)."""
        kinds = {self.kinds[name][0] for name in names}
        if kinds == {TensorProto.FLOAT}:
            wide = names[0] if len(names) == 1 else self._node("Concat", *names, axis=1)
            product = self._times_zero(wide)
        else:
            product = self._node("Concat", *map(self._times_zero, names), axis=1)
        if self.opset < 13:
            return self._columns(self._node("ReduceSum", product, axes=[1]), 1)
        axis = self._constant("axis", np.array([1]))
        return self._columns(self._node("ReduceSum", product, axis), 1)

    def _columns(self, name: str, width: int | str) -> str:
        """Returns (batch, width) as (batch, 1, width)."""
        return self._node("Reshape", name, self._constant("shape", np.array([-1, 1, width])))

    def _finish(self, terms: list[str]) -> None:
        """Adds the terms to the answer."""
        answer = GUARD + "answer"
        for node in self.graph.node:
            for names in (node.input, node.output):
                names[:] = [answer if name == "action" else name for name in names]
        for term in terms[:-1]:
            answer = self._node("Add", answer, term)
        last = helper.make_node("Add", [answer, terms[-1]], ["action"], GUARD + "Add")
        self.graph.node.append(last)

    def _node(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"{GUARD}{op}_{len(self.graph.node)}"
        self.graph.node.append(helper.make_node(op, inputs, [output], output, **attributes))
        return output

    def _constant(self, name: str, value: np.ndarray) -> str:
        self.graph.initializer.append(numpy_helper.from_array(value, GUARD + name))
        return GUARD + name
