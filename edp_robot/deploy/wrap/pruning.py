"""What a graph's outputs depend on, and a graph without the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import onnx


def needed(model: onnx.ModelProto, outputs: Sequence[str]) -> set[str]:
    """Returns the names that `outputs` depend on, themselves included."""
    return _closure(model.graph, outputs)[1]


def prune(model: onnx.ModelProto, outputs: Sequence[str]) -> None:
    """Removes the nodes and weights that `outputs` do not depend on."""
    graph = model.graph
    nodes, names = _closure(graph, outputs)
    weights = [tensor for tensor in graph.initializer if tensor.name in names]
    replace_all(graph.node, nodes)
    replace_all(graph.initializer, weights)


def operators(model: onnx.ModelProto) -> set[str]:
    """Returns the operators of a model, those inside subgraphs and functions included."""

    def ops(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
        for node in nodes:
            yield node.op_type
            yield from ops(_inner_nodes(node))

    functions = (node for function in model.functions for node in function.node)
    return {*ops(model.graph.node), *ops(functions)}


def replace_all(field: Any, values: Iterable[Any]) -> None:
    """Replaces the content of a repeated protobuf field."""
    copies = [type(value).FromString(value.SerializeToString()) for value in values]
    del field[:]
    field.extend(copies)


def _closure(
    graph: onnx.GraphProto, outputs: Sequence[str]
) -> tuple[list[onnx.NodeProto], set[str]]:
    """Returns the nodes that `outputs` depend on, in order, and all names among them."""
    names = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if names & set(node.output):
            kept.insert(0, node)
            names |= set(_reads(node))
    return kept, names


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yields the names that a node reads, those inside its subgraphs included."""
    yield from node.input
    for inner in _inner_nodes(node):
        yield from _reads(inner)


def _inner_nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from graph.node
