"""Concat: each branch absorbs its slice of the map."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bn_ops.folding.affine import ChannelAffine, along
from bn_ops.folding.constants import Constant
from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Plan, PutConstant, Refusal, merge
from bn_ops.folding.rules.base import Rule, Walk

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ConcatRule"]


class ConcatRule(Rule):
    """On the channel axis the map is split; on any other axis every branch takes all of it."""

    name: ClassVar[str] = "concat"
    ops: ClassVar[frozenset[str]] = frozenset({"Concat"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Absorb the map in all branches or in none."""
        axis = _axis(node, walk)
        if axis is None:
            return _unknown(node)
        starts = _starts(node, axis, walk) if axis == affine.axis else None
        if axis == affine.axis and (starts is None or starts[-1] != affine.channels):
            return _unknown(node)
        plans: list[Plan] = []
        for index in range(len(node.inputs)):
            part = affine if starts is None else affine.part(starts[index], starts[index + 1])
            outcome = _branch(node, index, part, walk)
            if isinstance(outcome, Refusal):
                return outcome
            plans.append(outcome)
        return merge(plans).via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass on a map that is the identity on the other branches."""
        axis = _axis(node, walk)
        if axis is None or axis != affine.axis:
            return Refusal(reason=f"{describe(node)} joins it with values that are not normalized")
        starts = _starts(node, axis, walk)
        if starts is None or starts[index + 1] - starts[index] != affine.channels:
            return _unknown(node)
        scale, shift = np.ones(starts[-1]), np.zeros(starts[-1])
        scale[starts[index] : starts[index + 1]] = affine.scale
        shift[starts[index] : starts[index + 1]] = affine.shift
        whole = ChannelAffine(scale=scale, shift=shift, axis=axis)
        onward = walk.forward(node.outputs[0], whole)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _axis(node: ir.Node, walk: Walk) -> int | None:
    axis = node.attributes.get_int("axis", 1)
    if axis >= 0:
        return axis
    ranks = [walk.shapes.rank(value) for value in (*node.outputs, *node.inputs)]
    rank = next((rank for rank in ranks if rank is not None), None)
    return None if rank is None else axis + rank


def _starts(node: ir.Node, axis: int, walk: Walk) -> list[int] | None:
    """Return the start of each branch on the axis, and the end of the last one."""
    starts = [0]
    for value in node.inputs:
        dims = walk.shapes.dims(value)
        size = None if dims is None or axis >= len(dims) else dims[axis]
        if not isinstance(size, int):
            return None
        starts.append(starts[-1] + size)
    return starts


def _branch(node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
    value = node.inputs[index]
    if value is None:
        return _unknown(node)
    stored = walk.constants.read(node, index)
    if not isinstance(stored, Constant):
        return walk.backward(value, affine)
    rank = stored.array.ndim
    if affine.axis >= rank or stored.array.shape[affine.axis] != affine.channels:
        return _unknown(node)
    scale = along(affine.scale, axis=affine.axis, rank=rank)
    array = scale * stored.array + along(affine.shift, axis=affine.axis, rank=rank)
    hint = f"{value.name}.folded"
    edit = PutConstant(node=node, index=index, array=array, dtype=stored.dtype, hint=hint)
    return Plan(edits=(edit,), path="")


def _unknown(node: ir.Node) -> Refusal:
    return Refusal(reason=f"the shapes of the inputs of {describe(node)} are not known")
