"""Transposed convolution, grouped or not. Weights have shape (C_in, C_out/groups, *kernel)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bn_ops.folding.affine import MATRIX, ChannelAffine, Float64Array, along
from bn_ops.folding.names import describe
from bn_ops.folding.plan import Edit, Outcome, Plan, PutConstant, Refusal
from bn_ops.folding.rules.base import Rule, Walk, wrong_axis
from bn_ops.folding.rules.conv import WEIGHT, bias_edit, read_bias

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["ConvTransposeRule"]


class ConvTransposeRule(Rule):
    """The weights of output channel g·(C_out/groups) + j are W[input channels of group g, j]."""

    name: ClassVar[str] = "conv-transpose"
    ops: ClassVar[frozenset[str]] = frozenset({"ConvTranspose"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Scale the second axis by group; bias ← a·bias + b, at every output position."""
        weight = walk.constants.read(node, WEIGHT)
        if isinstance(weight, Refusal):
            return weight
        groups = node.attributes.get_int("group", 1)
        scale = _output_channels(weight.array, groups, affine)
        if scale is None:
            return wrong_axis(node)
        bias = read_bias(node, weight, affine.channels, walk)
        if isinstance(bias, Refusal):
            return bias
        edits: tuple[Edit, ...] = (_edit(node, weight.array * scale, weight.dtype),)
        edits += bias_edit(node, bias, affine.scale * bias + affine.shift, weight)
        return Plan(edits=edits, path=self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """W[i] ← a[i]·W[i]. Decline a shift: the number of taps per position varies."""
        weight = walk.constants.read(node, WEIGHT)
        if index != 0:
            return wrong_axis(node)
        if isinstance(weight, Refusal):
            return weight
        if affine.shifts:
            return Refusal(reason=f"{describe(node)} sums over fewer inputs at its borders")
        if (
            affine.axis != 1
            or weight.array.ndim < MATRIX
            or weight.array.shape[0] != affine.channels
        ):
            return wrong_axis(node)
        scaled = along(affine.scale, axis=0, rank=weight.array.ndim) * weight.array
        return Plan(edits=(_edit(node, scaled, weight.dtype),), path=f"next-{self.name}")


def _edit(node: ir.Node, array: Float64Array, dtype: ir.DataType) -> PutConstant:
    value = node.inputs[WEIGHT]
    hint = f"{'' if value is None else value.name}.folded"
    return PutConstant(node=node, index=WEIGHT, array=array, dtype=dtype, hint=hint)


def _output_channels(
    weight: Float64Array, groups: int, affine: ChannelAffine
) -> Float64Array | None:
    """Expand a (C_out,) vector to the weight's shape (C_in, C_out/groups, 1, …)."""
    if affine.axis != 1 or weight.ndim < MATRIX or groups < 1 or weight.shape[0] % groups:
        return None
    inputs, per_group = weight.shape[:2]
    if per_group * groups != affine.channels:
        return None
    scale = np.repeat(affine.scale.reshape(groups, per_group), inputs // groups, axis=0)
    return scale.reshape(scale.shape + (1,) * (weight.ndim - 2))
