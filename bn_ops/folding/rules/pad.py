"""Pad: modes that repeat values commute with any map; zeros with maps without a shift."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Refusal
from bn_ops.folding.rules.base import Rule, Walk

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine

__all__ = ["PadRule"]

_REPEATING = frozenset({"reflect", "edge", "wrap"})
PADS, VALUE, AXES = 1, 2, 3

PADS_ARE_INPUTS = 11
"""Opset since which the amounts are an input of Pad instead of an attribute."""


class PadRule(Rule):
    """Passes the map on if the channel axis is not padded."""

    name: ClassVar[str] = "pad"
    ops: ClassVar[frozenset[str]] = frozenset({"Pad"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass the map on to the input."""
        refusal, value = _refusal(node, affine, walk), node.inputs[0]
        if refusal is not None or value is None:
            return refusal or Refusal(reason=f"{describe(node)} has no input")
        onward = walk.backward(value, affine)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass the map on to the output."""
        refusal = _refusal(node, affine, walk)
        if refusal is not None or index != 0:
            return refusal or Refusal(reason=f"it is a parameter of {describe(node)}")
        onward = walk.forward(node.outputs[0], affine)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _refusal(node: ir.Node, affine: ChannelAffine, walk: Walk) -> Refusal | None:
    amounts = _amounts(node, walk)
    if amounts is None or amounts.get(affine.axis, 0) != 0:
        return Refusal(reason=f"{describe(node)} may pad the channel axis")
    mode = node.attributes.get_string("mode", "constant")
    if mode in _REPEATING or not any(amounts.values()):
        return None
    if mode == "constant" and not affine.shifts and _pads_with_zero(node, walk):
        return None
    return Refusal(
        reason=f"{describe(node)} pads with a constant, to which the map would not apply"
    )


def _amounts(node: ir.Node, walk: Walk) -> dict[int, int] | None:
    """Return the total absolute padding per axis; None if it is not constant."""
    if walk.opset < PADS_ARE_INPUTS:
        pads = node.attributes.get_ints("pads", None)
    else:
        pads = walk.constants.ints(node, PADS)
    if pads is None or len(pads) % 2:
        return None
    count = len(pads) // 2
    axes = _axes(node, count, walk)
    if axes is None or len(axes) != count:
        return None
    return {axis: abs(pads[i]) + abs(pads[i + count]) for i, axis in enumerate(axes)}


def _axes(node: ir.Node, count: int, walk: Walk) -> tuple[int, ...] | None:
    if len(node.inputs) <= AXES or node.inputs[AXES] is None:
        return tuple(range(count))
    axes, rank = walk.constants.ints(node, AXES), walk.shapes.rank(node.inputs[0])
    if axes is None or rank is None:
        return None
    return tuple(axis % rank for axis in axes)


def _pads_with_zero(node: ir.Node, walk: Walk) -> bool:
    if walk.opset < PADS_ARE_INPUTS:
        return node.attributes.get_float("value", 0.0) == 0.0
    if len(node.inputs) <= VALUE or (value := node.inputs[VALUE]) is None:
        return True
    raw = walk.constants.raw(value)
    return not isinstance(raw, Refusal) and not bool(raw.any())
