"""The outputs of folded layers, compared in float64.

A fault in a channel that an activation cuts off influences no output of the network, whatever
samples run. In front of the activation it shows on any sample, so the outputs of the layers are
compared too, where folding must preserve them: folding moves scales and shifts through linear
operators only, so a tensor that an activation reads keeps its values.

Weights that multiply only zeros on every sample show in no tensor. Where a convolution reads the
same tensor in both models, its folded weights are therefore also compared with the formula.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from bn_ops.core.statistics import Float64Array
from bn_ops.engines.onnx.batchnorm import DEFAULT_EPS, attribute, batchnorm_nodes

if TYPE_CHECKING:
    import onnx

__all__ = [
    "Signature",
    "preserved_outputs",
    "shared_outputs",
    "signature",
    "worst_layer",
    "worst_weight",
]

_ACTIVATIONS = frozenset(
    {
        *("Celu", "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu"),
        *("Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Swish", "Tanh", "ThresholdedRelu"),
    }
)

_PASSING = frozenset({"Identity", "MaxPool", "Pad"})
"""Operators between an activation and a convolution that folding leaves as they are."""

Signature = tuple[Float64Array, Float64Array]
"""Mean and root mean square of each sample and channel, both (N, C)."""

# Lower bound of a channel's scale, as a share of the largest of the layer: rounding within a
# channel is relative to the terms of its sums, which a small result does not show.
_SCALE_FLOOR = 1e-3


def preserved_outputs(model: onnx.ModelProto) -> list[str]:
    """Return the outputs of BatchNorm layers that an activation reads, in graph order."""
    activated = {node.input[0] for node in model.graph.node if node.op_type in _ACTIVATIONS}
    made = [node.output[0] for _, node in batchnorm_nodes(model.graph)]
    return [name for name in made if name in activated]


def shared_outputs(names: Iterable[str], model: onnx.ModelProto) -> list[str]:
    """Return those of the names that a node of another model computes."""
    made = {name for node in model.graph.node for name in node.output}
    return [name for name in names if name in made]


def signature(array: NDArray[np.generic]) -> Signature:
    """Summarize a layer's output (N, C, *positions) by channel."""
    values = array.astype(np.float64, copy=False).reshape(*array.shape[:2], -1)
    squares = np.einsum("ncp,ncp->nc", values, values)
    return values.mean(axis=2), np.sqrt(squares / values.shape[2])


def worst_layer(
    names: Sequence[str], reference: Sequence[Signature], candidate: Sequence[Signature]
) -> tuple[float, str]:
    """Return the largest relative difference of a channel, and the name of its tensor.

    Args:
        names: the tensors; at least one.
        reference: their signatures in the unfolded model.
        candidate: the same in the folded model, on the same samples.
    """
    found = zip(names, reference, candidate, strict=True)
    return max(((_difference(one, other), name) for name, one, other in found))


def _difference(reference: Signature, candidate: Signature) -> float:
    mean, size = reference
    if mean.shape != candidate[0].shape or not all(np.isfinite(part).all() for part in reference):
        # Another layout, or samples on which the network overflows: the outputs show the rest.
        return 0.0
    with np.errstate(invalid="ignore"):
        apart = np.maximum(np.abs(mean - candidate[0]), np.abs(size - candidate[1]))
    return _largest_share(apart, size)


def _largest_share(apart: Float64Array, size: Float64Array) -> float:
    """Return the largest difference as a share of its channel's size; infinite for NaN."""
    largest = float(size.max(initial=0.0)) or 1.0
    share = apart / np.maximum(size, _SCALE_FLOOR * largest)
    return float(np.where(np.isnan(share), np.inf, share).max(initial=0.0))


def worst_weight(
    reference: onnx.ModelProto, candidate: onnx.ModelProto, exact: Mapping[str, Float64Array]
) -> tuple[float, str]:
    """Return the largest relative difference of folded weights from w·γ/√(σ² + ε), and the tensor.

    Compared are convolutions that read an input or an activation of the network, in both models the
    same, and whose BatchNorm an activation follows.

    Args:
        reference: the unfolded model.
        candidate: the folded model.
        exact: initializer of the folded model → its value before rounding.

    Returns:
        0 and an empty name where there is no such convolution.
    """
    preserved = frozenset(preserved_outputs(reference))
    made = {node.output[0]: node for node in reference.graph.node}
    folded = {node.output[0]: node for node in candidate.graph.node if node.op_type == "Conv"}
    stored = _Initializers(reference, {}), _Initializers(candidate, exact)
    worst = (0.0, "")
    for _, layer in batchnorm_nodes(reference.graph):
        name = layer.output[0]
        before, after = made.get(layer.input[0]), folded.get(name)
        if name not in preserved or before is None or after is None or before.op_type != "Conv":
            continue
        if before.input[0] != after.input[0] or not _is_activation(before.input[0], made):
            continue
        pair = _parameters(before, layer, stored[0]), _folded(after, stored[1])
        if pair[0] is not None and pair[1] is not None:
            worst = max(worst, (_weights_apart(pair[0], pair[1]), name))
    return worst


def _is_activation(name: str, made: Mapping[str, onnx.NodeProto]) -> bool:
    """Return whether a tensor is an input or an activation, perhaps padded or pooled."""
    node = made.get(name)
    while node is not None and node.op_type in _PASSING:
        node = made.get(node.input[0])
    return node is None or node.op_type in _ACTIVATIONS


class _Initializers:
    """Constant tensors of a model in float64."""

    def __init__(self, model: onnx.ModelProto, exact: Mapping[str, Float64Array]) -> None:
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._exact = exact

    def get(self, name: str) -> Float64Array | None:
        if name in self._exact:
            return self._exact[name]
        if name not in self._stored:
            return None
        return numpy_helper.to_array(self._stored[name]).astype(np.float64)


def _parameters(
    conv: onnx.NodeProto, layer: onnx.NodeProto, stored: _Initializers
) -> Float64Array | None:
    """Return what a convolution and its layer fold to: weights and bias by channel."""
    names = [*conv.input[1:], *layer.input[1:5]]
    values = [stored.get(name) for name in names]
    if any(value is None for value in values):
        return None
    weight, *bias, gamma, beta, mean, var = (value for value in values if value is not None)
    scale = gamma / np.sqrt(var + attribute(layer, "epsilon", DEFAULT_EPS))
    shift = beta + ((bias[0] if bias else 0.0) - mean) * scale
    return np.column_stack([weight.reshape(len(weight), -1) * scale[:, None], shift])


def _folded(conv: onnx.NodeProto, stored: _Initializers) -> Float64Array | None:
    weight = stored.get(conv.input[1])
    bias = stored.get(conv.input[2]) if len(conv.input) > 2 else np.zeros(1)  # noqa: PLR2004
    if weight is None or bias is None:
        return None
    return np.column_stack([weight.reshape(len(weight), -1), np.broadcast_to(bias, (len(weight),))])


def _weights_apart(wanted: Float64Array, found: Float64Array) -> float:
    if wanted.shape != found.shape or not np.isfinite(wanted).all():
        return 0.0
    return _largest_share(np.abs(wanted - found), np.abs(wanted).max(axis=1, keepdims=True))
