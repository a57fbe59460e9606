"""Gemm: Y = alpha·A·B + beta·C, A of shape (M, K), B (K, N), C broadcast to (M, N)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bn_ops.folding.affine import MATRIX, ChannelAffine, Float64Array
from bn_ops.folding.names import describe
from bn_ops.folding.plan import Edit, Outcome, Plan, PutConstant, PutFloat, Refusal
from bn_ops.folding.rules.base import Rule, Walk, wrong_axis

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.constants import Constant

__all__ = ["GemmRule"]

LEFT, WEIGHT, BIAS = 0, 1, 2


class GemmRule(Rule):
    """A map of the output scales B's output axis; a map of the input its other axis."""

    name: ClassVar[str] = "gemm"
    ops: ClassVar[frozenset[str]] = frozenset({"Gemm"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """B ← B·a on its output axis, C ← a·beta·C + b with beta 1."""
        weight = walk.constants.read(node, WEIGHT)
        if isinstance(weight, Refusal):
            return weight
        across = _as_k_by_n(node, weight.array)
        if affine.axis != 1 or across is None or across.shape[1] != affine.channels:
            return wrong_axis(node)
        bias = _read_bias(node, weight, walk)
        if isinstance(bias, Refusal):
            return bias
        return self._plan(node, weight, across * affine.scale, affine.scale * bias + affine.shift)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """B ← a·B on its input axis, C ← beta·C + alpha·(b·B) with beta 1."""
        weight = walk.constants.read(node, WEIGHT)
        if index != LEFT or node.attributes.get_int("transA", 0) != 0:
            return wrong_axis(node)
        if isinstance(weight, Refusal):
            return weight
        across = _as_k_by_n(node, weight.array)
        if affine.axis != 1 or across is None or across.shape[0] != affine.channels:
            return wrong_axis(node)
        bias = _read_bias(node, weight, walk)
        if isinstance(bias, Refusal):
            return bias
        moved = bias + node.attributes.get_float("alpha", 1.0) * (affine.shift @ across)
        plan = self._plan(node, weight, affine.scale[:, None] * across, moved)
        return Plan(edits=plan.edits, path=f"next-{self.name}")

    def _plan(
        self, node: ir.Node, weight: Constant, across: Float64Array, bias: Float64Array
    ) -> Plan:
        array = across.T if node.attributes.get_int("transB", 0) != 0 else across
        name = _name(node.inputs[WEIGHT])
        edits: tuple[Edit, ...] = (
            PutConstant(
                node=node, index=WEIGHT, array=array, dtype=weight.dtype, hint=f"{name}.folded"
            ),
        )
        has_bias = len(node.inputs) > BIAS and node.inputs[BIAS] is not None
        if has_bias or np.any(bias != 0.0):
            edits += (
                PutConstant(
                    node=node,
                    index=BIAS,
                    array=bias,
                    dtype=weight.dtype,
                    hint=f"{name}.folded_bias",
                ),
            )
            if node.attributes.get_float("beta", 1.0) != 1.0:
                edits += (PutFloat(node=node, name="beta", value=1.0),)
        return Plan(edits=edits, path=self.name)


def _as_k_by_n(node: ir.Node, weight: Float64Array) -> Float64Array | None:
    if weight.ndim != MATRIX:
        return None
    return weight.T if node.attributes.get_int("transB", 0) != 0 else weight


def _read_bias(node: ir.Node, weight: Constant, walk: Walk) -> Float64Array | Refusal:
    """Read beta·C, which broadcasts to (M, N); zero without a bias."""
    if len(node.inputs) <= BIAS or node.inputs[BIAS] is None:
        return np.zeros(1)
    bias = walk.constants.read(node, BIAS)
    if isinstance(bias, Refusal):
        return bias
    if bias.dtype != weight.dtype or bias.array.ndim > MATRIX:
        return Refusal(reason=f"the bias of {describe(node)} does not fit its weights")
    beta = node.attributes.get_float("beta", 1.0)
    # With beta 0 the bias is not read at all, so NaN in it must not propagate.
    return np.zeros(1) if beta == 0.0 else beta * bias.array


def _name(value: ir.Value | None) -> str:
    return "" if value is None or value.name is None else value.name
