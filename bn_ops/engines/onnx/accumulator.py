"""Accumulate moments per tensor and return them per layer."""

from __future__ import annotations

from collections.abc import Mapping

from bn_ops.core.frontier import check_finite
from bn_ops.core.moment_tree import MomentTree, join_trees
from bn_ops.core.moments import Moments
from bn_ops.core.statistics import LayerName
from bn_ops.engines.onnx.plan import Plan, Segment

__all__ = ["MomentAccumulator"]


class MomentAccumulator:
    """Moments of the measured tensors."""

    def __init__(self, plan: Plan) -> None:
        self._trees: dict[str, MomentTree] = {}
        self._owner: dict[str, LayerName] = {}
        for segment in plan.segments:
            for layer, parts in segment.parts.items():
                for part in parts:
                    self._owner.setdefault(part, layer)

    def owner(self, tensor: str) -> LayerName:
        """Return the first layer that reads a measured tensor, for error messages."""
        return self._owner[tensor]

    def add(self, tensor: str, position: int, found: Moments, *, batch: int | None) -> None:
        """Add the moments of consecutive samples, in stream order.

        Args:
            tensor: a measured tensor.
            position: of the first of these samples in the stream.
            found: their moments.
            batch: for error messages; None where unknown.

        Raises:
            LayerNotFiniteError: they are not finite.
        """
        check_finite(self._owner[tensor], found, batch=batch)
        self._trees.setdefault(tensor, MomentTree()).add(position, found)

    def layers(self, segment: Segment) -> Mapping[LayerName, MomentTree]:
        """Return the moments of the layers whose inputs are complete after a segment."""
        return {
            layer: join_trees([self._trees[part] for part in parts])
            for layer, parts in segment.parts.items()
        }
