"""Mul by a stored tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bn_ops.folding.affine import ChannelAffine, Float64Array, along
from bn_ops.folding.constants import Constant
from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Plan, PutConstant, Refusal
from bn_ops.folding.rules.base import Rule, Walk, no_exact_rule

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["MulRule"]


class MulRule(Rule):
    """The stored factor absorbs the scale; a shift is passed on to the readers."""

    name: ClassVar[str] = "mul"
    ops: ClassVar[frozenset[str]] = frozenset({"Mul"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """C ← a·c. Decline a shift, which would have to be divided by c."""
        if affine.shifts:
            return Refusal(reason=f"{describe(node)} cannot absorb a shift")
        found = _factor(node, walk)
        dims = walk.shapes.dims(node.outputs[0])
        if found is None or dims is None or affine.axis >= len(dims):
            return no_exact_rule(node)
        index, factor = found
        array = factor.array * along(affine.scale, axis=affine.axis, rank=len(dims))
        if factor.array.ndim > len(dims) or dims[affine.axis] != affine.channels:
            return no_exact_rule(node)
        return Plan(edits=(_put(node, index, array, factor),), path=self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """c·(a·x + b) = (a·c)·x + b·c: the factor absorbs a, the readers absorb b·c."""
        found = _factor(node, walk)
        own, whole = walk.shapes.dims(node.inputs[index]), walk.shapes.dims(node.outputs[0])
        if found is None or found[0] == index or own is None or whole is None:
            return no_exact_rule(node)
        other, factor = found
        if len(own) != len(whole) or factor.array.ndim > len(whole) or affine.axis >= len(own):
            return no_exact_rule(node)
        array = factor.array * along(affine.scale, axis=affine.axis, rank=len(own))
        plan = Plan(edits=(_put(node, other, array, factor),), path=f"next-{self.name}")
        if not affine.shifts:
            return plan
        shift = _shift(factor.array, affine, len(own))
        if shift is None:
            return Refusal(reason=f"{describe(node)} would make the shift depend on the position")
        rest = ChannelAffine(scale=np.ones_like(shift), shift=shift, axis=affine.axis)
        onward = walk.forward(node.outputs[0], rest)
        return onward if isinstance(onward, Refusal) else plan.also(*onward.edits)


def _factor(node: ir.Node, walk: Walk) -> tuple[int, Constant] | None:
    for index in (1, 0):
        stored = walk.constants.read(node, index)
        if isinstance(stored, Constant):
            return index, stored
    return None


def _shift(factor: Float64Array, affine: ChannelAffine, rank: int) -> Float64Array | None:
    """Return b·c per channel; None if c varies along another axis."""
    shape = (1,) * (rank - factor.ndim) + factor.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != affine.axis):
        return None
    return affine.shift * factor.reshape(-1)


def _put(node: ir.Node, index: int, array: Float64Array, factor: Constant) -> PutConstant:
    value = node.inputs[index]
    hint = f"{'' if value is None else value.name}.folded"
    return PutConstant(node=node, index=index, array=array, dtype=factor.dtype, hint=hint)
