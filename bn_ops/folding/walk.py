"""Walk from a layer through the graph, rule by rule, until its map is absorbed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Plan, Refusal, merge
from bn_ops.folding.rules.base import no_exact_rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine
    from bn_ops.folding.constants import Constants
    from bn_ops.folding.rules import Rule
    from bn_ops.folding.shapes import Shapes

__all__ = ["GraphWalk"]

_MAX_DISTANCE = 64
"""Maximum number of nodes between a layer and the weights that absorb it, for untrusted graphs."""


class GraphWalk:
    """One attempt to absorb one layer. Reads the graph and never changes it.

    A node that is reached twice ends the attempt: two plans may each be correct alone but wrong
    together.
    """

    def __init__(
        self,
        graph: ir.Graph,
        *,
        constants: Constants,
        shapes: Shapes,
        opset: int,
        rules: Mapping[str, Rule],
    ) -> None:
        self._graph = graph
        self._constants = constants
        self._shapes = shapes
        self._opset = opset
        self._rules = rules
        self._seen: set[ir.Node] = set()
        self._depth = 0

    @property
    def constants(self) -> Constants:
        """Return the reader of stored tensors."""
        return self._constants

    @property
    def shapes(self) -> Shapes:
        """Return the inferred shapes."""
        return self._shapes

    @property
    def opset(self) -> int:
        """Return the version of the standard operators."""
        return self._opset

    def backward(self, value: ir.Value, affine: ChannelAffine) -> Outcome:
        """Absorb a map of `value` into its producer; the caller must be its only reader."""
        refusal = self._not_exclusive(value)
        if refusal is not None:
            return refusal
        node = value.producer()
        if node is None:
            what = "an input of the graph" if value.is_graph_input() else "a stored tensor"
            return Refusal(reason=f"{value.name!r} is {what}")
        rule = self._enter(node)
        if isinstance(rule, Refusal):
            return rule
        if value.index() != 0:
            return no_exact_rule(node)
        self._depth += 1
        outcome = rule.backward(node, affine, self)
        self._depth -= 1
        return outcome

    def forward(self, value: ir.Value, affine: ChannelAffine) -> Outcome:
        """Absorb a map of `value` into everything that reads it."""
        if value.is_graph_output():
            return Refusal(reason=f"{value.name!r} is an output of the graph")
        if not value.uses():
            return Refusal(reason=f"{value.name!r} is not read")
        plans: list[Plan] = []
        for node, index in value.uses():
            outcome = self._into(node, index, affine)
            if isinstance(outcome, Refusal):
                return outcome
            plans.append(outcome)
        return merge(plans)

    def _into(self, node: ir.Node, index: int, affine: ChannelAffine) -> Outcome:
        if node.graph is not self._graph:
            return Refusal(reason=f"{describe(node)} reads it in a subgraph")
        rule = self._enter(node)
        if isinstance(rule, Refusal):
            return rule
        self._depth += 1
        outcome = rule.forward(node, index, affine, self)
        self._depth -= 1
        return outcome

    def _enter(self, node: ir.Node) -> Rule | Refusal:
        if node in self._seen:
            return Refusal(reason=f"{describe(node)} is reached on more than one path")
        self._seen.add(node)
        if self._depth >= _MAX_DISTANCE:
            return Refusal(reason=f"{describe(node)} is more than {_MAX_DISTANCE} operators away")
        rule = self._rules.get(node.op_type) if node.domain == "" else None
        return no_exact_rule(node) if rule is None else rule

    def _not_exclusive(self, value: ir.Value) -> Refusal | None:
        if value.is_graph_output():
            return Refusal(reason=f"{value.name!r} is also an output of the graph")
        readers = value.uses()
        for node, _ in readers:
            if node.graph is not self._graph:
                return Refusal(
                    reason=f"{value.name!r} is also read in a subgraph, by {describe(node)}"
                )
        if len(readers) != 1:
            names = ", ".join(dict.fromkeys(describe(node) for node, _ in readers))
            return Refusal(reason=f"{value.name!r} is read more than once, by {names}")
        return None
