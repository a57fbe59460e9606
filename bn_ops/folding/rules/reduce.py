"""ReduceMean over axes other than the channel axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Refusal
from bn_ops.folding.rules.base import Rule, Walk

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine

__all__ = ["ReduceRule"]

AXES = 1


class ReduceRule(Rule):
    """The mean of an affine map is the map of the mean."""

    name: ClassVar[str] = "reduce-mean"
    ops: ClassVar[frozenset[str]] = frozenset({"ReduceMean"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass on to the input, on the axis of the output's channels."""
        kept, value = _kept_axes(node, walk), node.inputs[0]
        if kept is None or value is None or kept.get(affine.axis) is None:
            return _declined(node)
        onward = walk.backward(value, affine.on_axis(kept[affine.axis]))
        return onward if isinstance(onward, Refusal) else onward.via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass on to the output, on the axis of the input's channels."""
        kept = _kept_axes(node, walk) if index == 0 else None
        target = next((out for out, own in (kept or {}).items() if own == affine.axis), None)
        if target is None:
            return _declined(node)
        onward = walk.forward(node.outputs[0], affine.on_axis(target))
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _kept_axes(node: ir.Node, walk: Walk) -> dict[int, int] | None:
    """Map each output axis that is not averaged to its input axis; None if unknown."""
    rank = walk.shapes.rank(node.inputs[0])
    axes: tuple[int, ...] | None
    if len(node.inputs) > AXES and node.inputs[AXES] is not None:
        axes = walk.constants.ints(node, AXES)
    else:
        axes = tuple(node.attributes.get_ints("axes", ()))
    if rank is None or not axes:
        return None
    averaged = {axis % rank for axis in axes}
    kept = [axis for axis in range(rank) if axis not in averaged]
    if node.attributes.get_int("keepdims", 1):
        return {axis: axis for axis in kept}
    return dict(enumerate(kept))


def _declined(node: ir.Node) -> Refusal:
    return Refusal(reason=f"{describe(node)} averages over channels, or its axes are not known")
