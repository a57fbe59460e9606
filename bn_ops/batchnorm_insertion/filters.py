"""The filters of a convolution or product, and giving them the scale they had before folding.

Theory of operation. A layer with variance σ², scale γ and ε maps the filter w to γ/√(σ² + ε)·w when
it is folded. What is left is v = γ²σ²/(σ² + ε), the variance of the output, and q = σ²/‖w‖², the
variance of the output of the normalized filter. New statistics give the original layer the gain
γ/√(σt² + ε); to find it, ε has to be known in units of σ². That matters to depthwise layers: in
ImageNet MobileNetV2 and EfficientNet-Lite0, 77 and 58 % of their channels have a variance below
100·ε, 17 and 21 % below 10·ε. Neither γ nor ‖w‖ can be found from the file: another pair folds to
the same filter. Both are alike in trained networks, so the norm that explains v and q best is
estimated for each layer, from two assumptions:

- trained filters have a norm² of about 0.1 in depthwise layers, and of about 1 in others;
- layers of one network, depthwise or not, have scales γ of about the same size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from bn_ops.core.statistics import Float64Array
from bn_ops.engines.onnx.graph import GraphIndex, reads

if TYPE_CHECKING:
    import onnx

    from bn_ops.batchnorm_insertion.sites import Site

__all__ = ["Filters", "FiltersReader", "filter_norms"]

_DATA, _WEIGHT, _BIAS = 0, 1, 2
_MATRIX_AXES: Final = 2

# The assumed norm² of a trained filter.
_DEPTHWISE_NORM: Final = 0.1
_OTHER_NORM: Final = 1.0

# Standard deviations of the logarithms of ‖w‖² and γ² around what is assumed. Medians of the
# depthwise layers of ImageNet MobileNetV2 and EfficientNet-Lite0 have 1.3 and 1.1, and 0.5 and 0.6.
_NORM_SPREAD: Final = 1.2
_SCALE_SPREAD: Final = 0.7

# Depthwise layers have scales of their own where a network has this many of them.
_MIN_LAYERS: Final = 3

# Channels with less than this share of the largest variance of their layer are left out.
_MIN_SHARE: Final = 1e-7

_LOG_NORMS: Final = np.linspace(-10.0, 10.0, 401)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """The stored weights and biases of one operator that nothing else reads.

    Attributes:
        weight: name of the weights.
        axis: their axis of output channels.
        biases: names of the biases, one value per channel each.
        norms: Euclidean norm of each channel's filter, shape (C,).
        depthwise: whether each channel has one input channel.
    """

    weight: str
    axis: int
    biases: tuple[str, ...]
    norms: Float64Array
    depthwise: bool

    def scales(self, norm: float) -> Float64Array:
        """Return the power of two nearest to what gives each channel a norm, shape (C,).

        Dividing by a power of two changes no digit of a weight. A filter of zeros gets 1.

        Args:
            norm: the norm of the divided filters.
        """
        ratio = np.where(self.norms > 0, self.norms / norm, 1.0)
        return np.asarray(np.exp2(np.round(np.log2(ratio))))

    def divide(self, model: onnx.ModelProto, scales: Float64Array) -> None:
        """Divide the filter and the biases of each channel by its scale, in place."""
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        for name in (self.weight, *self.biases):
            array = numpy_helper.to_array(stored[name])
            if name == self.weight:
                shape = [1] * array.ndim
                shape[self.axis] = scales.size
            else:
                shape = list(array.shape)
            divided = (array.astype(np.float64) / scales.reshape(shape)).astype(array.dtype)
            stored[name].CopyFrom(numpy_helper.from_array(divided, name))


def filter_norms(
    layers: Sequence[tuple[Filters, Float64Array]], *, eps: float
) -> tuple[float, ...]:
    """Estimate the norm that the filters of each layer had before folding.

    Args:
        layers: filters, and the variance of the operator's output per channel, shape (C,).
        eps: ε of the folded layers.
    """
    moments = [_log_medians(filters, variance) for filters, variance in layers]
    depthwise = [
        v for (filters, _), (v, _) in zip(layers, moments, strict=True) if filters.depthwise
    ]
    usual = float(np.median([v for v, _ in moments])) if moments else 0.0
    usual_depthwise = float(np.median(depthwise)) if len(depthwise) >= _MIN_LAYERS else usual
    return tuple(
        _norm(filters, v, q, usual=usual_depthwise if filters.depthwise else usual, eps=eps)
        for (filters, _), (v, q) in zip(layers, moments, strict=True)
    )


def _log_medians(filters: Filters, variance: Float64Array) -> tuple[float, float]:
    """Return the medians of ln v and of ln q + ln of the folded norm², over live channels."""
    live = (variance > _MIN_SHARE * variance.max(initial=0.0)) & (filters.norms > 0)
    if not live.any():
        return 0.0, 0.0
    logs = np.log(variance[live])
    return float(np.median(logs)), float(np.median(logs - 2 * np.log(filters.norms[live])))


def _norm(filters: Filters, log_v: float, log_q: float, *, usual: float, eps: float) -> float:
    """Return the most probable norm of a layer's filters.

    For a norm² e^x, σ² = q·e^x and γ² = v·(1 + ε/σ²).
    """
    assumed = np.log(_DEPTHWISE_NORM if filters.depthwise else _OTHER_NORM)
    x = assumed + _LOG_NORMS
    log_scale = log_v + np.log1p(eps * np.exp(-log_q - x))
    cost = ((x - assumed) / _NORM_SPREAD) ** 2 + ((log_scale - usual) / _SCALE_SPREAD) ** 2
    return float(np.exp(x[cost.argmin()] / 2))


class FiltersReader:
    """Finds the filters of sites in one graph."""

    def __init__(self, index: GraphIndex) -> None:
        self._index = index
        self._readers = Counter(name for node in index.graph.node for name in reads(node))
        self._readers.update(value.name for value in index.graph.output)

    def find(self, site: Site) -> Filters | None:
        """Return the filters of a site; None where they cannot be changed for it alone."""
        node = self._index.graph.node[site.operator_position]
        axis = _channel_axis(node)
        weights = self._own(node.input[_WEIGHT])
        if (
            axis is None
            or weights is None
            or (node.op_type == "MatMul" and weights.ndim != _MATRIX_AXES)
        ):
            return None
        flat = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1).astype(np.float64)
        names = [name for name in node.input[_BIAS:] if name]
        if site.position != site.operator_position:
            add = self._index.graph.node[site.position]
            names += [name for name in add.input if name not in node.output]
        for name in names:
            bias = self._own(name)
            if bias is None or bias.size != len(flat):
                return None
        return Filters(
            weight=node.input[_WEIGHT],
            axis=axis,
            biases=tuple(names),
            norms=np.linalg.norm(flat, axis=1) * _alpha(node),
            depthwise=node.op_type == "Conv" and len(flat) > 1 == weights.shape[1],
        )

    def _own(self, name: str) -> NDArray[np.generic] | None:
        """Return a stored float tensor that one node reads and no caller can override."""
        tensor = self._index.initializers.get(name)
        if tensor is None or self._readers[name] != 1 or name in self._index.overridable:
            return None
        array = numpy_helper.to_array(tensor)
        return array if array.dtype.kind == "f" and np.isfinite(array).all() else None


def _channel_axis(node: onnx.NodeProto) -> int | None:
    """Return the weights' axis of output channels; None where the layout is not handled."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if _attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if _attribute(node, "transB", 0) else 1
    return 1


def _alpha(node: onnx.NodeProto) -> float:
    """Return the factor of a Gemm's product."""
    return abs(float(_attribute(node, "alpha", 1.0))) if node.op_type == "Gemm" else 1.0


def _attribute(node: onnx.NodeProto, name: str, default: float) -> float:
    found = next((a for a in node.attribute if a.name == name), None)
    return default if found is None else float(helper.get_attribute_value(found))
