"""Convolution in one, two or three dimensions, grouped and depthwise.

Weights have shape (C_out, C_in/groups, *kernel), the bias (C_out,).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bn_ops.folding.affine import MATRIX, ChannelAffine, Float64Array, along
from bn_ops.folding.names import describe
from bn_ops.folding.plan import Edit, Outcome, Plan, PutConstant, Refusal
from bn_ops.folding.rules.base import Rule, Walk, wrong_axis

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.constants import Constant

__all__ = ["ConvRule", "bias_edit", "read_bias"]

WEIGHT, BIAS = 1, 2


class ConvRule(Rule):
    """Output channels are the weight's first axis, input channels of a group its second."""

    name: ClassVar[str] = "conv"
    ops: ClassVar[frozenset[str]] = frozenset({"Conv"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """W[o] ← a[o]·W[o], bias ← a·bias + b. Padding is applied before and does not matter."""
        weight = walk.constants.read(node, WEIGHT)
        if isinstance(weight, Refusal):
            return weight
        if (
            affine.axis != 1
            or weight.array.ndim < MATRIX
            or weight.array.shape[0] != affine.channels
        ):
            return wrong_axis(node)
        bias = read_bias(node, weight, affine.channels, walk)
        if isinstance(bias, Refusal):
            return bias
        scaled = along(affine.scale, axis=0, rank=weight.array.ndim) * weight.array
        edits: tuple[Edit, ...] = (_weight_edit(node, scaled, weight),)
        edits += bias_edit(node, bias, affine.scale * bias + affine.shift, weight)
        return Plan(edits=edits, path=self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """W[:, i] ← W[:, i]·a[i], bias ← bias + Σ W·b.

        A shift requires inputs that are never padded: padding is zero after the layer and would
        have to be −b/a before it.
        """
        weight = walk.constants.read(node, WEIGHT)
        if index != 0:
            return wrong_axis(node)
        if isinstance(weight, Refusal):
            return weight
        if affine.shifts and not _never_pads(node):
            return Refusal(
                reason=f"{describe(node)} pads with zeros, to which the shift would not apply"
            )
        groups = node.attributes.get_int("group", 1)
        per_input = _input_channels(weight.array, groups, affine)
        if per_input is None:
            return wrong_axis(node)
        scale, shift = per_input
        bias = read_bias(node, weight, weight.array.shape[0], walk)
        if isinstance(bias, Refusal):
            return bias
        flat = weight.array.reshape(*weight.array.shape[:2], -1).sum(axis=2)
        moved = bias + (flat * shift).sum(axis=1)
        tail = (1,) * (weight.array.ndim - 2)
        scaled = weight.array * scale.reshape(scale.shape + tail)
        edits: tuple[Edit, ...] = (_weight_edit(node, scaled, weight),)
        return Plan(edits=edits + bias_edit(node, bias, moved, weight), path=f"next-{self.name}")


def read_bias(node: ir.Node, weight: Constant, channels: int, walk: Walk) -> Float64Array | Refusal:
    """Read the bias, shape (C_out,); zeros without a bias or with an empty name."""
    if len(node.inputs) <= BIAS or node.inputs[BIAS] is None:
        return np.zeros(channels)
    bias = walk.constants.read(node, BIAS)
    if isinstance(bias, Refusal):
        return bias
    if bias.array.shape != (channels,) or bias.dtype != weight.dtype:
        return Refusal(reason=f"the bias of {describe(node)} does not fit its weights")
    return bias.array


def bias_edit(
    node: ir.Node, old: Float64Array, new: Float64Array, weight: Constant
) -> tuple[Edit, ...]:
    """Store a bias if it changed, so that none is created where none is needed."""
    if np.array_equal(old, new):
        return ()
    hint = f"{_weight_name(node)}.folded_bias"
    return (PutConstant(node=node, index=BIAS, array=new, dtype=weight.dtype, hint=hint),)


def _weight_edit(node: ir.Node, array: Float64Array, weight: Constant) -> PutConstant:
    hint = f"{_weight_name(node)}.folded"
    return PutConstant(node=node, index=WEIGHT, array=array, dtype=weight.dtype, hint=hint)


def _weight_name(node: ir.Node) -> str:
    value = node.inputs[WEIGHT]
    return "" if value is None or value.name is None else value.name


def _input_channels(
    weight: Float64Array, groups: int, affine: ChannelAffine
) -> tuple[Float64Array, Float64Array] | None:
    """Expand (C_in,) vectors to the weight's (C_out, C_in/groups).

    Output channel o belongs to group o // (C_out/groups), which reads input channels
    group·(C_in/groups) + j.
    """
    if affine.axis != 1 or weight.ndim < MATRIX or groups < 1 or weight.shape[0] % groups:
        return None
    outputs, inputs = weight.shape[:2]
    if inputs * groups != affine.channels:
        return None
    repeat = outputs // groups
    scale = np.repeat(affine.scale.reshape(groups, inputs), repeat, axis=0)
    shift = np.repeat(affine.shift.reshape(groups, inputs), repeat, axis=0)
    return scale, shift


def _never_pads(node: ir.Node) -> bool:
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "VALID":
        return True
    return mode in {"NOTSET", ""} and not any(node.attributes.get_ints("pads", ()))
