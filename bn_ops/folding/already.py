"""Recognising a model whose BatchNorm is gone already."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

__all__ = ["all_nodes", "detect_already_folded"]

_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_BIAS = 2


def detect_already_folded(model: onnx.ModelProto) -> bool:
    """Tell whether an exporter has folded BatchNorm into convolutions.

    The sign is: convolutions with a bias, and no BatchNormalization anywhere,
    bodies and local functions included. A network that never had BatchNorm looks the same; either
    way there is nothing to recalibrate. The model is not changed.
    """
    nodes = list(all_nodes(model))
    if any(node.op_type == "BatchNormalization" for node in nodes):
        return False
    biased = [
        len(node.input) > _BIAS and bool(node.input[_BIAS])
        for node in nodes
        if node.op_type in _CONVOLUTIONS
    ]
    return any(biased)


def all_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """List every node, those of bodies and local functions included, in no particular order."""
    waiting = [*model.graph.node, *(node for f in model.functions for node in f.node)]
    found: list[onnx.NodeProto] = []
    while waiting:
        node = waiting.pop()
        found.append(node)
        for attribute in node.attribute:
            waiting += attribute.g.node
            for graph in attribute.graphs:
                waiting += graph.node
    return found
