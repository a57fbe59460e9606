"""Pooling: averages commute with the map, maxima with maps of non-negative scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Refusal
from bn_ops.folding.rules.base import Rule, Walk, wrong_axis

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine

__all__ = ["PoolRule"]

_AVERAGES = frozenset({"AveragePool", "GlobalAveragePool"})
_MAXIMA = frozenset({"MaxPool", "GlobalMaxPool"})


class PoolRule(Rule):
    """Pooling windows do not span channels."""

    name: ClassVar[str] = "pool"
    ops: ClassVar[frozenset[str]] = _AVERAGES | _MAXIMA

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass the map on to the input."""
        refusal, value = _refusal(node, affine), node.inputs[0]
        if refusal is not None or value is None:
            return refusal or wrong_axis(node)
        onward = walk.backward(value, affine)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass the map on to the output."""
        refusal = _refusal(node, affine)
        if refusal is not None or index != 0:
            return refusal or wrong_axis(node)
        onward = walk.forward(node.outputs[0], affine)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _refusal(node: ir.Node, affine: ChannelAffine) -> Refusal | None:
    if affine.axis != 1:
        return wrong_axis(node)
    if node.op_type in _MAXIMA:
        return _maximum_refusal(node, affine)
    if affine.shifts and node.op_type == "AveragePool" and not _keeps_constants(node):
        return Refusal(
            reason=f"{describe(node)} includes padding in averages, so a shift cannot pass it"
        )
    return None


def _maximum_refusal(node: ir.Node, affine: ChannelAffine) -> Refusal | None:
    if np.any(affine.scale < 0.0):
        return Refusal(reason=f"a negative scale would reverse the maximum of {describe(node)}")
    if any(value.name for value in node.outputs[1:]):
        # Ties that rounding creates or breaks would change the reported index.
        return Refusal(reason=f"{describe(node)} also returns the indices of its maxima")
    return None


def _keeps_constants(node: ir.Node) -> bool:
    """Return whether the average of a constant image is that constant everywhere."""
    attributes = node.attributes
    if attributes.get_int("count_include_pad", 0) == 0:
        return True
    mode = attributes.get_string("auto_pad", "NOTSET")
    pads = mode not in {"NOTSET", "VALID", ""} or any(attributes.get_ints("pads", ()))
    # Runtimes differ in the divisor of windows that extend beyond the edge with ceil_mode.
    return not pads and attributes.get_int("ceil_mode", 0) == 0
