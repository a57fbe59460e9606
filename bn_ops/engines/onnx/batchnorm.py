"""BatchNormalization nodes: names, parameters, and reasons why one cannot be recalibrated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from bn_ops.core.layers import LayerInfo
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.onnx.graph import GraphIndex, bodies, is_standard

__all__ = [
    "DEFAULT_EPS",
    "attribute",
    "batchnorm_nodes",
    "hidden_layers",
    "is_batchnorm",
    "layer_info",
    "layer_name",
    "statistics_tensors",
]

# BatchNormalization's inputs, by position.
INPUT, SCALE, SHIFT, MEAN, VAR = range(5)

DEFAULT_EPS = 1e-5
_FIRST_INFERENCE_FORM = 7


def is_batchnorm(node: onnx.NodeProto) -> bool:
    """Return whether a node is ONNX's BatchNormalization."""
    return node.op_type == "BatchNormalization" and is_standard(node)


def layer_name(node: onnx.NodeProto) -> str:
    """Return the layer's name: the node's name, or that of its first output."""
    return node.name or node.output[0]


def batchnorm_nodes(graph: onnx.GraphProto) -> Iterator[tuple[int, onnx.NodeProto]]:
    """Yield position and node of every BatchNormalization of the main graph."""
    for position, node in enumerate(graph.node):
        if is_batchnorm(node):
            yield position, node


def statistics_tensors(graph: onnx.GraphProto) -> dict[LayerName, tuple[str, str]]:
    """Return the names of each layer's mean and variance; layer names must be unique."""
    return {node.name: (node.input[MEAN], node.input[VAR]) for _, node in batchnorm_nodes(graph)}


def attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    """Return a numeric attribute, or its default."""
    for found in node.attribute:
        if found.name == name:
            return found.f if found.type == onnx.AttributeProto.FLOAT else float(found.i)
    return default


def layer_info(
    node: onnx.NodeProto,
    index: GraphIndex,
    *,
    opset: int,
    input_rank: int | None,
    depends_on_input: bool,
) -> LayerInfo:
    """Describe one BatchNormalization of the main graph.

    Args:
        node: the node.
        index: its graph.
        opset: version of the standard operator set.
        input_rank: rank of its input, where known.
        depends_on_input: whether its input depends on the model's inputs.
    """
    mean, var = (_vector(index, node, slot) for slot in (MEAN, VAR))
    scale, shift = (_vector(index, node, slot) for slot in (SCALE, SHIFT))
    statistics = None if mean is None or var is None else RunningStatistics(mean=mean, var=var)
    known = next((v for v in (mean, var, scale, shift) if v is not None), None)
    plain = (
        scale is not None and shift is not None and bool((scale == 1).all() & (shift == 0).all())
    )
    return LayerInfo(
        name=layer_name(node),
        channels=None if known is None else int(known.size),
        eps=float(np.float32(attribute(node, "epsilon", DEFAULT_EPS))),
        affine=not plain,
        statistics=statistics,
        input_rank=input_rank,
        reason=_reason(node, statistics, opset=opset, depends_on_input=depends_on_input),
    )


def _reason(
    node: onnx.NodeProto,
    statistics: RunningStatistics | None,
    *,
    opset: int,
    depends_on_input: bool,
) -> str | None:
    if opset < _FIRST_INFERENCE_FORM:
        return f"operator set {opset} predates the inference-only form of BatchNormalization"
    if attribute(node, "training_mode", 0):
        return "training_mode=1: the layer normalizes by the statistics of each batch"
    if attribute(node, "spatial", 1) == 0:
        return "spatial=0: statistics per position, not per channel"
    if statistics is None:
        return "its mean and variance are computed or supplied at run time, not stored in the model"
    if not depends_on_input:
        return "its input does not depend on the model's inputs"
    return None


def _vector(index: GraphIndex, node: onnx.NodeProto, slot: int) -> NDArray[np.float64] | None:
    value = index.constant(node.input[slot]) if len(node.input) > slot else None
    return None if value is None else value.astype(np.float64).reshape(-1)


def hidden_layers(graph: onnx.GraphProto) -> Iterator[LayerInfo]:
    """Yield the layers inside bodies of If, Loop and Scan, which cannot be recalibrated."""
    for node in graph.node:
        for body in bodies(node):
            owner = node.name or node.output[0]
            for _, inner in batchnorm_nodes(body):
                yield LayerInfo(
                    name=layer_name(inner),
                    channels=None,
                    eps=attribute(inner, "epsilon", DEFAULT_EPS),
                    affine=True,
                    statistics=None,
                    input_rank=None,
                    reason=f"inside the body of {node.op_type} {owner!r}: the number of its "
                    "runs depends on the data",
                )
            yield from hidden_layers(body)
