"""Puts the network of a policy's graph into float16 and leaves everything else as it is.

A command of 1.2 rad has a resolution of 1e-3 rad in float16. So normaliser, solver, action map and
limits stay float32. ONNX Runtime's own converter cannot do that: it rounds every input and output
to float16, and every value between two float32 nodes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calibration.file import CalibrationError
from calibration.precision.layers import load_onnx, network, read_graph, reads, write_graph

SUFFIX = "__fp16"
# The type of these comes from an attribute or the standard, not from their input.
KEPT = ("Cast", "ConstantOfShape", "Resize")


def to_fp16(graph: bytes) -> bytes:
    """Returns the graph with its network in float16; inputs and output stay float32.

    Raises:
        CalibrationError: The graph has no network, or one of its nodes has no float16 form.
    """
    model = read_graph(graph)
    nodes = list(model.graph.node)
    inside = {i for i in network(model.graph) if _convertible(nodes[i])}
    if not inside:
        raise CalibrationError("fp16: the graph has no MatMul, Gemm or Conv, so nothing to convert")
    floats = _float_tensors(model)
    outside = {name for i, node in enumerate(nodes) if i not in inside for name in reads(node)}
    outside |= {output.name for output in model.graph.output}
    halves = _Halves(model)
    converted = []
    for i, node in enumerate(nodes):
        converted += halves.convert(node, floats, outside) if i in inside else [node]
    del model.graph.node[:]
    model.graph.node.extend(converted)
    return write_graph(model)


class _Halves:
    """Makes one float16 twin of each float32 tensor: rounds constants, casts all others."""

    def __init__(self, model: Any):
        self.onnx = load_onnx()
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.made: set[str] = set()

    def convert(self, node: Any, floats: set[str], outside: set[str]) -> list[Any]:
        """Returns a float16 node in place of `node`, with the casts that it needs before and after.

        Args:
            node: A float32 node of the network.
            floats: Names of the float32 tensors.
            outside: Tensors that are read outside the network.
        """
        casts = [cast for name in node.input if name in floats for cast in self._half(name)]
        after = [
            self._cast(name + SUFFIX, name, "FLOAT")
            for name in node.output
            if name in floats & outside
        ]
        for names in (node.input, node.output):
            names[:] = [name + SUFFIX if name in floats else name for name in names]
        self.made.update(name.removesuffix(SUFFIX) for name in node.output)
        return [*casts, node, *after]

    def _half(self, name: str) -> list[Any]:
        """Makes the twin of `name` if there is none yet, and returns the nodes that this takes."""
        if name in self.made:
            return []
        self.made.add(name)
        if name not in self.constants:
            return [self._cast(name, name + SUFFIX, "FLOAT16")]
        with np.errstate(over="ignore"):  # an overflow gives infinity, which `judge` refuses
            values = self.onnx.numpy_helper.to_array(self.constants[name]).astype(np.float16)
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(values, name + SUFFIX))
        return []

    def _cast(self, source: str, target: str, kind: str) -> Any:
        to = getattr(self.onnx.TensorProto, kind)
        return self.onnx.helper.make_node("Cast", [source], [target], f"{target}__cast", to=to)


def _convertible(node: Any) -> bool:
    """Returns whether the node is a standard operator whose type follows its inputs."""
    has_subgraph = any(attribute.graphs or attribute.g.node for attribute in node.attribute)
    return node.domain in ("", "ai.onnx") and node.op_type not in KEPT and not has_subgraph


def _float_tensors(model: Any) -> set[str]:
    """Returns the names of the graph's float32 tensors, constants included."""
    kind = load_onnx().TensorProto.FLOAT
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    names = {value.name for value in values if value.type.tensor_type.elem_type == kind}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == kind}
