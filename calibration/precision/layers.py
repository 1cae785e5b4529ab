"""What of a policy's graph is the network, and what is arithmetic around it: normaliser, solver, action map, limits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from calibration.errors import CalibrationError

LAYERS = ("MatMul", "Gemm", "Conv")


@contextlib.contextmanager
def _needed() -> Iterator[None]:
    """Turns a failing import into a CalibrationError that names the extra."""
    try:
        yield
    except ImportError as error:
        raise CalibrationError(f"{error}; expected: pip install 'edp-robot[train]'") from error


def load_onnx() -> Any:
    """Returns the module onnx, imported when it is first needed. Raises CalibrationError where it is not installed."""
    with _needed():
        import onnx
        import onnx.reference
    return onnx


def load_quantization() -> Any:
    """Returns onnxruntime.quantization, as `load_onnx` does onnx."""
    with _needed():
        from onnxruntime import quantization
    return quantization


def read_graph(graph: bytes) -> Any:
    """Returns the onnx.ModelProto of a graph, every node named, every tensor typed, and weights in their final layout.

    Raises:
        CalibrationError: not an ONNX graph, or one whose types contradict one another.
    """
    onnx = load_onnx()
    try:
        model = onnx.shape_inference.infer_shapes(
            onnx.load_from_string(graph), check_type=True, strict_mode=True
        )
    except Exception as error:  # onnx raises protobuf's and its own private types
        raise CalibrationError(
            f"the graph is not one that onnx {onnx.__version__} reads: {error}"
        ) from error
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    _fold(model)
    return model


def write_graph(model: Any) -> bytes:
    """Returns the bytes of a model whose types fit together everywhere (strongly typed, as TensorRT 11 asks).

    Raises:
        CalibrationError: they do not.
    """
    onnx = load_onnx()
    _drop_unread(model.graph)
    del model.graph.value_info[:]
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # onnx raises several private types
        raise CalibrationError(
            f"the converted graph is not valid: {error}; keep this policy in float32"
        ) from error
    return model.SerializeToString()


def reads(node: Any) -> Iterator[str]:
    """Yields every tensor that a node reads, those that its subgraphs take from around them included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from reads(inner)


def with_layer_upstream(nodes: Any) -> set[int]:
    """Returns the positions of the nodes that read something which a layer had a part in; `nodes` in running order."""
    touched, found = set(), set()
    for i, node in enumerate(nodes):
        behind = any(name in touched for name in reads(node))
        if behind:
            found.add(i)
        if behind or node.op_type in LAYERS:
            touched.update(node.output)
    return found


def with_layer_downstream(nodes: Any) -> set[int]:
    """Returns the positions of the nodes that have a part in what a layer reads; `nodes` in running order."""
    wanted, found = set(), set()
    for i, node in reversed(list(enumerate(nodes))):
        ahead = any(name in wanted for name in node.output)
        if ahead:
            found.add(i)
        if ahead or node.op_type in LAYERS:
            wanted.update(reads(node))
    wanted.discard("")
    return found


def network(graph: Any) -> set[int]:
    """Returns the positions of the nodes inside the network: layers, and what leads from one to the next.

    A solver leads from one call of the network to the next as well, and divides by a small alpha on its way. A node of
    it reads a coefficient, a constant of one number, or only what such nodes made; neither is inside.
    """
    nodes, made = graph.node, set()
    between, found = with_layer_upstream(nodes) & with_layer_downstream(nodes), set()
    numbers = {t.name for t in graph.initializer if t.data_type == t.FLOAT and np.prod(t.dims) == 1}
    for i, node in enumerate(nodes):
        leads = i in between and not made.isdisjoint(node.input) and numbers.isdisjoint(node.input)
        if node.op_type in LAYERS or leads:
            found.add(i)
            made.update(node.output)
    return found


def _fold(model: Any) -> None:
    """Turns nodes of constants and transposes of them into plain constants: a weight there passes for an activation."""
    onnx, graph = load_onnx(), model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            folded = attributes["value"]
        elif node.op_type == "Transpose" and node.input[0] in values:
            held = onnx.numpy_helper.to_array(values[node.input[0]])
            turned = np.ascontiguousarray(np.transpose(held, attributes.get("perm")))
            folded = onnx.numpy_helper.from_array(turned)
        else:
            continue
        graph.node.remove(node)
        values[node.output[0]] = graph.initializer.add()
        values[node.output[0]].CopyFrom(folded)
        values[node.output[0]].name = node.output[0]


def _drop_unread(graph: Any) -> None:
    """Removes the constants that no node reads."""
    read = {name for node in graph.node for name in reads(node)} | {
        output.name for output in graph.output
    }
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
