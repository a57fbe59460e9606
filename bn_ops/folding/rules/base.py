"""The interface of a rule, and of the walk that calls it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Refusal

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine
    from bn_ops.folding.constants import Constants
    from bn_ops.folding.shapes import Shapes

__all__ = ["Rule", "Walk", "no_exact_rule", "wrong_axis"]


class Walk(Protocol):
    """Access of a rule to the graph, and to further rules."""

    @property
    def constants(self) -> Constants:
        """Return the reader of stored tensors."""

    @property
    def shapes(self) -> Shapes:
        """Return the inferred shapes."""

    @property
    def opset(self) -> int:
        """Return the version of the standard operators."""

    def backward(self, value: ir.Value, affine: ChannelAffine) -> Outcome:
        """Absorb a map of `value` into its producer; `value` must have one reader."""

    def forward(self, value: ir.Value, affine: ChannelAffine) -> Outcome:
        """Absorb a map of `value` into everything that reads it."""


class Rule:
    """How one operator family absorbs or passes on a map of its output or of an input.

    Subclasses override one or both directions; the base class declines.

    Attributes:
        name: name of the rule in reports.
        ops: operators of the standard domain that it handles.
    """

    name: ClassVar[str]
    ops: ClassVar[frozenset[str]]

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Absorb a map of the node's first output, so that it computes `affine(output)`."""
        del affine, walk
        return no_exact_rule(node)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Absorb a map of input `index`: compute from x what it computed from `affine(x)`."""
        del index, affine, walk
        return no_exact_rule(node)


def no_exact_rule(node: ir.Node) -> Refusal:
    """Return a refusal because the operator is not linear, or unknown."""
    return Refusal(reason=f"no exact rule passes {describe(node)}")


def wrong_axis(node: ir.Node) -> Refusal:
    """Return a refusal because the map is not on an axis that the node's weights can absorb."""
    return Refusal(reason=f"the weights of {describe(node)} are not along the normalized axis")
