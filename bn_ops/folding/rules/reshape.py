"""Reshape, Flatten, Squeeze and Unsqueeze: the elements keep their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Refusal
from bn_ops.folding.rules.base import Rule, Walk
from bn_ops.folding.rules.reshape_sizes import reshaped
from bn_ops.folding.sizes import carry

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine

__all__ = ["ReshapeRule"]


class ReshapeRule(Rule):
    """The map is carried to the axis, on the other side, that tells the same elements apart."""

    name: ClassVar[str] = "reshape"
    ops: ClassVar[frozenset[str]] = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Go on to the input."""
        sizes, value = reshaped(node, walk), node.inputs[0]
        if sizes is None or value is None:
            return _declined(node)
        carried = carry(affine, sizes[1], sizes[0])
        if carried is None:
            return _declined(node)
        onward = walk.backward(value, carried)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Go on to the output."""
        sizes = reshaped(node, walk) if index == 0 else None
        carried = None if sizes is None else carry(affine, sizes[0], sizes[1])
        if carried is None:
            return _declined(node)
        onward = walk.forward(node.outputs[0], carried)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _declined(node: ir.Node) -> Refusal:
    return Refusal(reason=f"{describe(node)} does not provably keep the channels apart")
