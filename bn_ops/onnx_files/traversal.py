"""Read a ModelProto: its nodes, with those of subgraphs and local functions, and its opset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["all_nodes", "has_batchnorm", "nested_nodes", "standard_opset", "subgraphs"]


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node of the main graph, of subgraphs and of local functions."""
    yield from nested_nodes(model.graph.node)
    for function in model.functions:
        yield from nested_nodes(function.node)


def nested_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Yield nodes and the nodes of their subgraphs, each node before its subgraphs."""
    # A stack and not recursion: subgraphs may be nested deeper than Python's limit.
    waiting = [iter(nodes)]
    while waiting:
        node = next(waiting[-1], None)
        if node is None:
            waiting.pop()
            continue
        yield node
        waiting += [iter(graph.node) for graph in subgraphs(node)]


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in a node's attributes, such as the branches of an If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def has_batchnorm(model: onnx.ModelProto) -> bool:
    """Return whether the model has a BatchNormalization node anywhere."""
    return any(node.op_type == "BatchNormalization" for node in all_nodes(model))


def standard_opset(model: onnx.ModelProto) -> int:
    """Return the version of the standard ONNX operator set that the model imports."""
    return next((o.version for o in model.opset_import if o.domain in {"", "ai.onnx"}), 1)
