"""Transpose, which moves the channel axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Refusal
from bn_ops.folding.rules.base import Rule, Walk

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine

__all__ = ["TransposeRule"]


class TransposeRule(Rule):
    """Axis i of the output is axis perm[i] of the input."""

    name: ClassVar[str] = "transpose"
    ops: ClassVar[frozenset[str]] = frozenset({"Transpose"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass on to the input, on the source axis of the channels."""
        perm, value = _permutation(node, walk), node.inputs[0]
        if perm is None or value is None or affine.axis >= len(perm):
            return _unknown(node)
        onward = walk.backward(value, affine.on_axis(perm[affine.axis]))
        return onward if isinstance(onward, Refusal) else onward.via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass on to the output, on the target axis of the channels."""
        perm = _permutation(node, walk)
        if perm is None or index != 0 or affine.axis not in perm:
            return _unknown(node)
        onward = walk.forward(node.outputs[0], affine.on_axis(perm.index(affine.axis)))
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _permutation(node: ir.Node, walk: Walk) -> tuple[int, ...] | None:
    perm = node.attributes.get_ints("perm", None)
    if perm is not None:
        return tuple(perm)
    rank = walk.shapes.rank(node.inputs[0])
    return None if rank is None else tuple(reversed(range(rank)))


def _unknown(node: ir.Node) -> Refusal:
    return Refusal(reason=f"the rank of the input of {describe(node)} is not known")
