"""What a rule is, and what it may ask of the walk that calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Plan, Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine
    from bn_ops.folding.constants import Constants
    from bn_ops.folding.shapes import Shapes

__all__ = ["NOTHING", "Rule", "Walk", "no_exact_rule", "wrong_axis"]

NOTHING = Plan(edits=(), path="")
"""The plan for a map that changes nothing."""


class Walk(Protocol):
    """The graph as a rule sees it, and the way on."""

    @property
    def constants(self) -> Constants:
        """Reader of stored tensors."""

    @property
    def shapes(self) -> Shapes:
        """What is known of shapes."""

    @property
    def opset(self) -> int:
        """Version of the standard operators."""

    def backward(self, value: ir.Value, affine: ChannelAffine) -> Outcome:
        """Absorb a map of `value` into what produces it; `value` must have one reader."""

    def forward(self, value: ir.Value, affine: ChannelAffine) -> Outcome:
        """Absorb a map of `value` into everything that reads it."""


class Rule:
    """How one operator family takes up, or passes on, a map of its output or of an input.

    Subclasses override one or both directions; the base class declines.

    Attributes:
        name: what the rule is called in reports.
        ops: operators of the standard domain that it knows.
    """

    name: ClassVar[str]
    ops: ClassVar[frozenset[str]]

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Absorb a map of the node's first output, so that it computes `affine(output)`."""
        del affine, walk
        return no_exact_rule(node)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Absorb a map of input `index`: given x, compute what `affine(x)` would have given."""
        del index, affine, walk
        return no_exact_rule(node)


def no_exact_rule(node: ir.Node) -> Refusal:
    """Decline because the operator is not linear, or unknown."""
    return Refusal(reason=f"no exact rule passes {describe(node)}")


def wrong_axis(node: ir.Node) -> Refusal:
    """Decline because the map is on another axis than the node's weights could take."""
    return Refusal(reason=f"the weights of {describe(node)} do not lie along the normalised axis")
