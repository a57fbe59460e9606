"""Adjacent BatchNormalization nodes: their maps are combined."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bn_ops.folding.batchnorm import read_batchnorm
from bn_ops.folding.constants import Constant
from bn_ops.folding.names import describe
from bn_ops.folding.plan import Edit, Outcome, Plan, PutConstant, PutFloat, Refusal
from bn_ops.folding.rules.base import Rule, Walk, wrong_axis

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine

__all__ = ["BatchNormRule"]


class BatchNormRule(Rule):
    """The remaining layer gets the combined scale and shift, mean 0, variance 1 and epsilon 0."""

    name: ClassVar[str] = "batchnorm"
    ops: ClassVar[frozenset[str]] = frozenset({"BatchNormalization"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Apply this layer first, then the map."""
        own = _read(node, walk)
        if isinstance(own, Refusal):
            return own
        if affine.axis != 1 or own.channels != affine.channels:
            return wrong_axis(node)
        return _plan(node, affine.after(own), self.name, walk)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Apply the map first, then this layer."""
        own = _read(node, walk)
        if isinstance(own, Refusal):
            return own
        if index != 0 or affine.axis != 1 or own.channels != affine.channels:
            return wrong_axis(node)
        return _plan(node, own.after(affine), f"next-{self.name}", walk)


def _read(node: ir.Node, walk: Walk) -> ChannelAffine | Refusal:
    own = read_batchnorm(node, walk.constants, walk.opset)
    if isinstance(own, Refusal):
        return Refusal(reason=f"the adjacent {describe(node)} cannot absorb it: {own.reason}")
    return own


def _plan(node: ir.Node, affine: ChannelAffine, path: str, walk: Walk) -> Outcome:
    ones = np.ones(affine.channels)
    arrays = (affine.scale, affine.shift, np.zeros(affine.channels), ones)
    edits: list[Edit] = [PutFloat(node=node, name="epsilon", value=0.0)]
    for index, array in enumerate(arrays, start=1):
        old = walk.constants.read(node, index)
        assert isinstance(old, Constant)  # read_batchnorm has read all four
        value = node.inputs[index]
        hint = f"{'' if value is None else value.name}.folded"
        edits.append(PutConstant(node=node, index=index, array=array, dtype=old.dtype, hint=hint))
    return Plan(edits=tuple(edits), path=path)
