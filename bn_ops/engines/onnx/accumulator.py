"""Accumulate moments per tensor and return them per layer."""

from __future__ import annotations

from collections.abc import Mapping

from bn_ops.core.frontier import check_finite
from bn_ops.core.moments import Moments, join, merge
from bn_ops.core.statistics import LayerName
from bn_ops.engines.onnx.plan import Plan, Segment

__all__ = ["MomentAccumulator"]


class MomentAccumulator:
    """Moments of the measured tensors, merged in stream order."""

    def __init__(self, plan: Plan) -> None:
        self._totals: dict[str, Moments] = {}
        self._owner: dict[str, LayerName] = {}
        for segment in plan.segments:
            for layer, parts in segment.parts.items():
                for part in parts:
                    self._owner.setdefault(part, layer)

    def owner(self, tensor: str) -> LayerName:
        """Return the first layer that reads a measured tensor, for error messages."""
        return self._owner[tensor]

    def add(self, tensor: str, found: Moments, *, batch: int | None) -> None:
        """Add one batch's moments.

        Raises:
            LayerNotFiniteError: they are not finite.
        """
        check_finite(self._owner[tensor], found, batch=batch)
        known = self._totals.get(tensor)
        self._totals[tensor] = found if known is None else merge(known, found)

    def layers(self, segment: Segment) -> Mapping[LayerName, Moments]:
        """Return the moments of the layers whose inputs are complete after a segment."""
        return {
            layer: join([self._totals[part] for part in parts])
            for layer, parts in segment.parts.items()
        }
