"""Finds the network in a policy's graph, and reads and writes such graphs.

The arithmetic around the network is the normaliser, the solver, the action map and the limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from calibration.file import CalibrationError
from policy_server.contract.onnx_import import import_quantization

LAYERS = ("MatMul", "Gemm", "Conv")
INSTALL = "expected: pip install 'edp-robot[train]'"


def load_onnx() -> Any:
    """Returns the module onnx. Raises CalibrationError where it is not installed."""
    try:
        import onnx
        import onnx.reference
    except ImportError as error:
        raise CalibrationError(f"{error}; {INSTALL}") from error
    return onnx


def load_quantization() -> Any:
    """Returns onnxruntime.quantization. Raises CalibrationError where it is not installed."""
    try:
        return import_quantization()
    except ImportError as error:
        raise CalibrationError(f"{error}; {INSTALL}") from error


def read_graph(graph: bytes) -> Any:
    """Returns a graph's onnx.ModelProto: nodes named, tensors typed, weights in final layout.

    Raises:
        CalibrationError: This is no ONNX graph, or its types contradict one another.
    """
    onnx = load_onnx()
    try:
        model = onnx.load_from_string(graph)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    except Exception as error:  # onnx raises protobuf's and its own private types
        raise CalibrationError(
            f"the graph is not one that onnx {onnx.__version__} reads: {error}"
        ) from error
    for i, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"
    _fold(model)
    return model


def write_graph(model: Any) -> bytes:
    """Returns the bytes of a model that is strongly typed, as TensorRT 11 asks.

    Raises:
        CalibrationError: The types do not fit together.
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
    """Yields every tensor that a node or one of its subgraphs reads."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from reads(inner)


def with_layer_upstream(nodes: Any) -> set[int]:
    """Returns the positions of the nodes whose input depends on a layer, `nodes` in order."""
    return _reached(enumerate(nodes), reads, lambda node: node.output)


def with_layer_downstream(nodes: Any) -> set[int]:
    """Returns the positions of the nodes that a layer's input depends on, `nodes` in order."""
    backwards = reversed(list(enumerate(nodes)))
    return _reached(backwards, lambda node: node.output, lambda node: filter(None, reads(node)))


def _reached(
    nodes: Iterable[tuple[int, Any]],
    sources: Callable[[Any], Iterable[str]],
    targets: Callable[[Any], Iterable[str]],
) -> set[int]:
    """Returns the positions of the nodes that the `targets` of layers lead to, step by step."""
    touched: set[str] = set()
    found = set()
    for i, node in nodes:
        is_reached = not touched.isdisjoint(sources(node))
        if is_reached:
            found.add(i)
        if is_reached or node.op_type in LAYERS:
            touched.update(targets(node))
    return found


def network(graph: Any) -> set[int]:
    """Returns the positions of the network's nodes: layers, and what leads from one to the next.

    A solver also leads from one call of the network to the next, and divides by a small alpha on
    its way. Its nodes read a coefficient (a constant of one number), or only results of such nodes.
    They are not inside.
    """
    nodes = graph.node
    between = with_layer_upstream(nodes) & with_layer_downstream(nodes)
    numbers = {t.name for t in graph.initializer if t.data_type == t.FLOAT and np.prod(t.dims) == 1}
    made: set[str] = set()
    found = set()
    for i, node in enumerate(nodes):
        leads = i in between and not made.isdisjoint(node.input) and numbers.isdisjoint(node.input)
        if node.op_type in LAYERS or leads:
            found.add(i)
            made.update(node.output)
    return found


def _fold(model: Any) -> None:
    """Turns Constant nodes, and transposes of constants, into initializers.

    Otherwise a weight would be taken for an activation.
    """
    onnx = load_onnx()
    graph = model.graph
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
        tensor = graph.initializer.add()
        tensor.CopyFrom(folded)
        tensor.name = node.output[0]
        values[tensor.name] = tensor


def _drop_unread(graph: Any) -> None:
    """Removes the constants that no node reads."""
    read = {name for node in graph.node for name in reads(node)}
    read |= {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
