"""Pooling over positions: averages commute with the map, maxima with rising ones."""

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
    """Pooling windows lie within one channel."""

    name: ClassVar[str] = "pool"
    ops: ClassVar[frozenset[str]] = _AVERAGES | _MAXIMA

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Go on to the input."""
        fault, value = _fault(node, affine), node.inputs[0]
        if fault is not None or value is None:
            return fault or wrong_axis(node)
        onward = walk.backward(value, affine)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Go on to the output."""
        fault = _fault(node, affine)
        if fault is not None or index != 0:
            return fault or wrong_axis(node)
        onward = walk.forward(node.outputs[0], affine)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _fault(node: ir.Node, affine: ChannelAffine) -> Refusal | None:
    if affine.axis != 1:
        return wrong_axis(node)
    if node.op_type in _MAXIMA:
        return _fault_of_maximum(node, affine)
    if affine.shifts and node.op_type == "AveragePool" and not _keeps_constants(node):
        return Refusal(reason=f"{describe(node)} averages padding in, which a shift would move")
    return None


def _fault_of_maximum(node: ir.Node, affine: ChannelAffine) -> Refusal | None:
    if np.any(affine.scale < 0.0):
        return Refusal(reason=f"a negative scale would turn the maximum of {describe(node)} around")
    if any(value.name for value in node.outputs[1:]):
        # Ties that rounding makes or breaks would change which index is reported.
        return Refusal(reason=f"{describe(node)} also returns the indices of its maxima")
    return None


def _keeps_constants(node: ir.Node) -> bool:
    """Tell whether the average of a constant image is that constant everywhere."""
    attributes = node.attributes
    if attributes.get_int("count_include_pad", 0) == 0:
        return True
    mode = attributes.get_string("auto_pad", "NOTSET")
    pads = mode not in {"NOTSET", "VALID", ""} or any(attributes.get_ints("pads", ()))
    # Windows that ceil_mode lets hang over the edge are divided by differing counts in the wild.
    return not pads and attributes.get_int("ceil_mode", 0) == 0
