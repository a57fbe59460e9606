"""Decide whether a graph treats samples independently, so that batches can be cut anywhere.

This is a list of operators that do, with conditions on their attributes and constants; every other
operator counts as mixing samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bn_ops.engines.onnx.graph import is_standard
from bn_ops.engines.onnx.optimized.markers import BLOCKED_DOMAIN

__all__ = ["mixes_samples"]

_Weights = Mapping[str, NDArray[np.generic]]

# Operators that treat each position of the first axis independently.
_ALONG_SAMPLES = frozenset(
    {
        "AveragePool",
        "BatchNormalization",
        "Conv",
        "ConvTranspose",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "InstanceNormalization",
        "LRN",
        "MaxPool",
    }
)

# Elementwise operators, with constants that broadcast.
_ELEMENTWISE = frozenset(
    {
        "Abs",
        "Add",
        "Clip",
        "Div",
        "Dropout",
        "Elu",
        "Exp",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "LeakyRelu",
        "Max",
        "Min",
        "Mish",
        "Mul",
        "Neg",
        "PRelu",
        "Pow",
        "Relu",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Sqrt",
        "Sub",
        "Sum",
        "Tanh",
    }
)

_BLOCKED = frozenset(
    {
        "AveragePool",
        "Conv",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "MaxPool",
        "ReorderInput",
        "ReorderOutput",
        "Upsample",
    }
)

_MICROSOFT = frozenset({"FastGelu", "FusedConv", "Gelu", "QuickGelu"})

_FULL_RANK = 4


def mixes_samples(nodes: Iterable[onnx.NodeProto], weights: _Weights) -> str | None:
    """Return the operator that may mix samples, or None."""
    for node in nodes:
        if not _samplewise(node, weights):
            return f"{node.domain or 'ai.onnx'}.{node.op_type}"
    return None


def _samplewise(node: onnx.NodeProto, weights: _Weights) -> bool:
    if node.domain == BLOCKED_DOMAIN:
        return node.op_type in _BLOCKED
    if node.domain == "com.microsoft":
        return node.op_type in _MICROSOFT
    if not is_standard(node):
        return False
    if node.op_type in _ELEMENTWISE:
        return all(_broadcasts(weights[name]) for name in node.input if name in weights)
    if node.op_type in _ALONG_SAMPLES:
        return True
    condition = _CONDITIONS.get(node.op_type)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return condition is not None and condition(node, attributes, weights)


def _broadcasts(constant: NDArray[np.generic]) -> bool:
    """Return whether a constant broadcasts along the first axis of a tensor of rank 4."""
    return constant.ndim < _FULL_RANK or (constant.ndim == _FULL_RANK and constant.shape[0] == 1)


_Attributes = Mapping[str, Any]


def _joins_later_axis(node: onnx.NodeProto, attributes: _Attributes, weights: _Weights) -> bool:
    constant = any(name in weights for name in node.input)
    return not constant and int(attributes.get("axis", 0)) > 0


def _flattens_samples(node: onnx.NodeProto, attributes: _Attributes, weights: _Weights) -> bool:
    del node, weights
    return int(attributes.get("axis", 1)) == 1


def _leaves_first_axis(node: onnx.NodeProto, attributes: _Attributes, weights: _Weights) -> bool:
    del node, weights
    return "perm" in attributes and attributes["perm"][0] == 0


def _multiplies_rows(node: onnx.NodeProto, attributes: _Attributes, weights: _Weights) -> bool:
    return not attributes.get("transA", 0) and all(name in weights for name in node.input[1:])


def _keeps_samples_open(node: onnx.NodeProto, attributes: _Attributes, weights: _Weights) -> bool:
    """Return whether a Reshape leaves the number of samples open; the run checks the number."""
    shape = weights.get(node.input[1])
    if attributes.get("allowzero", 0) or shape is None or not shape.size:
        return False
    return int(shape.reshape(-1)[0]) in {0, -1}


def _averages_positions(node: onnx.NodeProto, attributes: _Attributes, weights: _Weights) -> bool:
    axes: list[int] = list(attributes.get("axes", []))
    if len(node.input) > 1 and node.input[1] in weights:
        axes = weights[node.input[1]].tolist()
    return bool(axes) and (min(axes) > 0 or sorted(axes) in ([-1], [-2, -1]))


_CONDITIONS: Mapping[str, Callable[[onnx.NodeProto, _Attributes, _Weights], bool]] = {
    "Concat": _joins_later_axis,
    "Flatten": _flattens_samples,
    "Gemm": _multiplies_rows,
    "ReduceMean": _averages_positions,
    "Reshape": _keeps_samples_open,
    "Transpose": _leaves_first_axis,
}
