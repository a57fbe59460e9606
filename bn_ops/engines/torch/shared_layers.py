"""Layers that are called several times per forward: pooled, and iterated to a fixed point.

Such a layer has no answer in one pass: its later calls see what its own statistics made of the
earlier ones. Each pass runs every batch with the statistics of the pass before, pools all calls,
and measures every other layer anew. It ends when the pooled statistics no longer move, or at the
bound; how far the last pass moved them is the residual.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bn_ops.core.moments import Moments, merge
from bn_ops.core.statistics import LayerName, RunningStatistics

__all__ = ["Residual", "SharedLayers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """How far a layer's last pass moved its statistics, the largest over its channels.

    Attributes:
        mean: |Δμ| / √(σ² + ε).
        var: |Δσ²| / (σ² + ε).
    """

    mean: float
    var: float


class SharedLayers:
    """Pools of the layers that are called more than once."""

    def __init__(self, *, tolerance: float, passes: int) -> None:
        self.names: set[LayerName] = set()
        self.residuals: dict[LayerName, Residual] = {}
        self._pools: dict[LayerName, Moments] = {}
        self._used: dict[LayerName, RunningStatistics] = {}
        self._tolerance = tolerance
        self._passes_left = passes

    def add(self, name: LayerName, moments: Moments) -> None:
        """Pool one more call of a layer."""
        held = self._pools.get(name)
        self._pools[name] = moments if held is None else merge(held, moments)

    def use(self, name: LayerName, new: RunningStatistics, eps: float) -> None:
        """Take note of the statistics that a layer gets, and of how far they moved."""
        old = self._used.get(name)
        if old is not None:
            scale = np.maximum(new.var, 0) + eps
            self.residuals[name] = Residual(
                mean=float((np.abs(new.mean - old.mean) / np.sqrt(scale)).max()),
                var=float((np.abs(new.var - old.var) / scale).max()),
            )
        self._used[name] = new

    def pooled(self) -> dict[LayerName, Moments]:
        """Return what the pass has pooled, and begin with empty pools."""
        found = {name: self._pools[name] for name in sorted(self.names) if name in self._pools}
        self._pools.clear()
        return found

    def wants_another_pass(self) -> bool:
        """Tell whether the statistics still move and the bound allows one more pass."""
        self._passes_left -= 1
        moving = any(
            max(r.mean, r.var) > self._tolerance
            for r in (
                self.residuals.get(name, Residual(mean=np.inf, var=np.inf)) for name in self.names
            )
        )
        return moving and self._passes_left > 0
