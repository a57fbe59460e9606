"""Identity, and Dropout outside training."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Refusal
from bn_ops.folding.rules.base import Rule, Walk

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine

__all__ = ["IdentityRule"]

TRAINING_MODE = 2
"""Input of Dropout since opset 12. Before that the operator is an identity by definition."""


class IdentityRule(Rule):
    """Passes the map on unchanged."""

    name: ClassVar[str] = "identity"
    ops: ClassVar[frozenset[str]] = frozenset({"Identity", "Dropout"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass the map on to the input."""
        value = node.inputs[0]
        if value is None or not _is_identity(node, walk):
            return Refusal(reason=f"{describe(node)} may be in training mode")
        onward = walk.backward(value, affine)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass the map on to the output."""
        if index != 0 or not _is_identity(node, walk):
            return Refusal(reason=f"{describe(node)} may be in training mode")
        onward = walk.forward(node.outputs[0], affine)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _is_identity(node: ir.Node, walk: Walk) -> bool:
    if node.op_type == "Identity" or len(node.inputs) <= TRAINING_MODE:
        return True
    flag = node.inputs[TRAINING_MODE]
    if flag is None:
        return True
    raw = walk.constants.raw(flag)
    return not isinstance(raw, Refusal) and not bool(raw.any())
