"""MatMul with one stored operand, on either side, of rank 2 or more."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bn_ops.folding.affine import MATRIX, ChannelAffine, Float64Array, along
from bn_ops.folding.constants import Constant
from bn_ops.folding.plan import AddAfter, Edit, Outcome, Plan, PutConstant, Refusal, ToGemm
from bn_ops.folding.rules.base import Rule, Walk, wrong_axis

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["MatMulRule"]

LEFT, RIGHT = 0, 1


class MatMulRule(Rule):
    """`x·W` has its channels on the last axis, `W·x` on the second to last.

    MatMul has no bias. A shift goes into an existing Add after it; otherwise MatMul and
    BatchNormalization become one Gemm (two matrices) or MatMul and Add (more axes).
    """

    name: ClassVar[str] = "matmul"
    ops: ClassVar[frozenset[str]] = frozenset({"MatMul"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Scale the axis of W that becomes the output's channel axis."""
        found = _stored(node, walk)
        if isinstance(found, Refusal):
            return found
        side, weight = found
        rank = walk.shapes.rank(node.outputs[0])
        if not _matrices(node, weight, walk) or rank is None:
            return wrong_axis(node)
        from_right = 1 if side == RIGHT else 2
        if affine.axis != rank - from_right or weight.array.shape[-from_right] != affine.channels:
            return wrong_axis(node)
        scaled = weight.array * along(affine.scale, axis=0, rank=from_right)
        edits: tuple[Edit, ...] = (_edit(node, side, scaled, weight),)
        if affine.shifts:
            edits += (_shift(node, side, affine.shift, weight, walk),)
        return Plan(edits=edits, path=self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Scale the axis of W that is summed over; the shift becomes W·b on the output."""
        found = _stored(node, walk)
        if isinstance(found, Refusal):
            return found
        side, weight = found
        rank = walk.shapes.rank(node.inputs[index])
        if index == side or not _matrices(node, weight, walk) or rank is None:
            return wrong_axis(node)
        summed = 2 if side == RIGHT else 1  # axis of W, from the right, that is summed over
        axis_of_x = rank - (3 - summed)
        if affine.axis != axis_of_x or weight.array.shape[-summed] != affine.channels:
            return wrong_axis(node)
        scaled = weight.array * along(affine.scale, axis=0, rank=summed)
        plan = Plan(edits=(_edit(node, side, scaled, weight),), path=f"next-{self.name}")
        if not affine.shifts:
            return plan
        if weight.array.ndim != MATRIX:
            return Refusal(reason="the shift would differ between the matrices of the batch")
        moved = affine.shift @ weight.array if side == RIGHT else weight.array @ affine.shift
        return plan.also(*self._place_shift(node, side, moved, weight, walk))

    def _place_shift(
        self, node: ir.Node, side: int, shift: Float64Array, weight: Constant, walk: Walk
    ) -> tuple[Edit, ...]:
        """Return edits for a shift of the output: in the readers if they absorb it, else here."""
        rank = walk.shapes.rank(node.outputs[0])
        assert rank is not None  # both operands' ranks are known
        axis = rank - (1 if side == RIGHT else 2)
        affine = ChannelAffine(scale=np.ones_like(shift), shift=shift, axis=axis)
        onward = walk.forward(node.outputs[0], affine) if affine.shifts else Plan(edits=(), path="")
        if isinstance(onward, Plan) and onward.cast_refusal() is None:
            return onward.edits
        return (_shift(node, side, shift, weight, walk),)


def _stored(node: ir.Node, walk: Walk) -> tuple[int, Constant] | Refusal:
    right = walk.constants.read(node, RIGHT)
    if isinstance(right, Constant):
        return RIGHT, right
    left = walk.constants.read(node, LEFT)
    return right if isinstance(left, Refusal) else (LEFT, left)


def _matrices(node: ir.Node, weight: Constant, walk: Walk) -> bool:
    """Return whether both operands have rank 2 or more: MatMul drops the axis of a vector."""
    ranks = [walk.shapes.rank(value) for value in node.inputs]
    known = all(rank is not None and rank >= MATRIX for rank in ranks)
    return known and weight.array.ndim >= MATRIX and walk.shapes.rank(node.outputs[0]) is not None


def _edit(node: ir.Node, side: int, array: Float64Array, weight: Constant) -> PutConstant:
    hint = f"{_name(node, side)}.folded"
    return PutConstant(node=node, index=side, array=array, dtype=weight.dtype, hint=hint)


def _shift(node: ir.Node, side: int, shift: Float64Array, weight: Constant, walk: Walk) -> Edit:
    hint = f"{_name(node, side)}.folded_bias"
    if (
        side == RIGHT
        and weight.array.ndim == MATRIX
        and walk.shapes.rank(node.inputs[LEFT]) == MATRIX
    ):
        return ToGemm(node=node, array=shift, dtype=weight.dtype, hint=hint)
    array = shift if side == RIGHT else shift[:, None]
    return AddAfter(node=node, array=array, dtype=weight.dtype, hint=hint)


def _name(node: ir.Node, index: int) -> str:
    value = node.inputs[index]
    return "" if value is None or value.name is None else value.name
