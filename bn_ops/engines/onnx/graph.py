"""A read-only index of an ONNX graph: producers of tensors, and constants."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["GraphIndex", "bodies", "index_graph", "is_standard", "reads"]


# Operators by which exporters compute a layer's parameters from initializers.
_CONSTANT_FORMS = frozenset(
    {"Cast", "Constant", "ConstantOfShape", "Flatten", "Identity", "Reshape"}
)

# More than any layer's channels; an untrusted ConstantOfShape may ask for any amount of memory.
_MAX_VECTOR_SIZE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphIndex:
    """Index of one graph; positions are those of `graph.node`.

    Attributes:
        graph: the graph itself.
        producer: tensor name → position of the node that outputs it.
        initializers: tensor name → initializer.
        feeds: names of the required inputs (those without an initializer).
        overridable: names of inputs with an initializer.
    """

    graph: onnx.GraphProto
    producer: Mapping[str, int]
    initializers: Mapping[str, onnx.TensorProto]
    feeds: tuple[str, ...]
    overridable: frozenset[str]

    def constant(self, name: str) -> NDArray[np.generic] | None:
        """Return the value of a small constant tensor, in any form; None if it is not constant."""
        if name in self.initializers:
            return numpy_helper.to_array(self.initializers[name])
        position = self.producer.get(name)
        if position is None:
            return None
        node = self.graph.node[position]
        if not is_standard(node) or node.op_type not in _CONSTANT_FORMS:
            return None
        feeds: dict[str, Any] = {}
        for given in node.input:
            value = self.constant(given)
            if value is None:
                return None
            feeds[given] = value
        if node.op_type == "ConstantOfShape" and _elements(feeds[node.input[0]]) > _MAX_VECTOR_SIZE:
            return None
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - few models need it

        return np.asarray(next(iter(ReferenceEvaluator(node).run(None, feeds))))


def _elements(shape: NDArray[np.generic]) -> int:
    # Python integers: numpy's would overflow for an untrusted shape.
    return math.prod(int(size) for size in shape)


def index_graph(graph: onnx.GraphProto) -> GraphIndex:
    """Index a graph whose nodes are in topological order (as ONNX demands)."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    return GraphIndex(
        graph=graph,
        producer={
            name: position
            for position, node in enumerate(graph.node)
            for name in node.output
            if name
        },
        initializers=initializers,
        feeds=tuple(value.name for value in graph.input if value.name not in initializers),
        overridable=frozenset(value.name for value in graph.input if value.name in initializers),
    )


def is_standard(node: onnx.NodeProto) -> bool:
    """Return whether a node belongs to the standard ONNX operator set."""
    return node.domain in {"", "ai.onnx"}


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the subgraphs of a node (the branches of If, the body of Loop and Scan)."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            yield from attribute.graphs


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield every outer tensor that a node reads, including those captured by its subgraphs."""
    yield from (name for name in node.input if name)
    for body in bodies(node):
        yield from _captured(body)


def _captured(body: onnx.GraphProto) -> Iterator[str]:
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    for node in body.node:
        yield from (name for name in reads(node) if name not in own)
        own.update(node.output)
    yield from (value.name for value in body.output if value.name not in own)
