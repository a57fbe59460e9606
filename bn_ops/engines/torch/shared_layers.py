"""Layers that a forward calls several times, or that batches reach in different orders.

One pass is not enough for a layer that is called several times, because the input of its later
calls depends on its own statistics. Each pass runs every batch with the statistics of the pass
before, pools all calls, and measures every other layer anew. Passes end when the pooled statistics
stop moving, or at a limit; the movement of the last pass is the residual.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from bn_ops.core.engine import Residual
from bn_ops.core.moment_tree import MomentTree
from bn_ops.core.moments import Moments
from bn_ops.core.statistics import LayerName, RunningStatistics

__all__ = ["SharedLayers", "VisitOrder"]


class SharedLayers:
    """Pooled moments of the layers that are called more than once.

    Args:
        tolerance: movement in units of σ below which passes end.
        passes: maximum number of passes.
    """

    def __init__(self, *, tolerance: float, passes: int) -> None:
        self.names: set[LayerName] = set()
        self.residuals: dict[LayerName, Residual] = {}
        self._pools: dict[LayerName, MomentTree] = {}
        self._committed: dict[LayerName, RunningStatistics] = {}
        self._tolerance = tolerance
        self._passes_left = passes

    def begin(self, name: LayerName, tree: MomentTree) -> None:
        """Pool the calls at which batches wait for a layer.

        Args:
            name: the layer.
            tree: the moments of these calls, not ordered.
        """
        self._pools[name] = tree.copy()

    def add(self, name: LayerName, position: int, moments: Moments) -> None:
        """Pool one more call of a layer.

        Args:
            name: the layer, whose statistics are known.
            position: of the batch's first sample in the stream.
            moments: of the layer's input.
        """
        self._pools.setdefault(name, MomentTree(ordered=False)).add(position, moments)

    def commit(self, name: LayerName, new: RunningStatistics, eps: float) -> None:
        """Record a layer's new statistics and how far they moved since the pass before."""
        old = self._committed.get(name)
        if old is not None:
            scale = np.maximum(new.var, 0) + eps
            self.residuals[name] = Residual(
                mean=float((np.abs(new.mean - old.mean) / np.sqrt(scale)).max()),
                var=float((np.abs(new.var - old.var) / scale).max()),
            )
        self._committed[name] = new

    def pooled(self) -> dict[LayerName, MomentTree]:
        """Return the moments that the pass has pooled, and clear the pools."""
        found = {name: self._pools[name] for name in sorted(self.names) if name in self._pools}
        self._pools.clear()
        return found

    def needs_another_pass(self) -> bool:
        """Return whether the statistics still move and the bound allows one more pass."""
        self._passes_left -= 1
        moving = any(
            max(r.mean, r.var) > self._tolerance
            for r in (
                self.residuals.get(name, Residual(mean=np.inf, var=np.inf)) for name in self.names
            )
        )
        return moving and self._passes_left > 0


class VisitOrder:
    """The order in which batches reach layers, as far as it is known.

    At first the order of registration decides, which is the order of execution in most code. Later
    passes use the order seen in earlier ones.
    """

    def __init__(self, registered: Iterable[LayerName]) -> None:
        self._rank = {name: rank for rank, name in enumerate(registered)}
        self._after: dict[LayerName, set[LayerName]] = {}

    def learn(self, visited: Sequence[LayerName]) -> None:
        """Record the order in which one batch reached its layers."""
        for position, name in enumerate(visited):
            self._after.setdefault(name, set()).update(visited[position + 1 :])

    def first(self, waiting: Iterable[LayerName]) -> LayerName:
        """Return the layer that no other waiting layer precedes, as far as known."""
        names = sorted(waiting, key=self._rank.__getitem__)
        free = [
            name
            for name in names
            if not any(name in self._reachable(other) for other in names if other != name)
        ]
        # None is free where batches reach the layers in opposite orders.
        return free[0] if free else names[0]

    def _reachable(self, start: LayerName) -> set[LayerName]:
        found: set[LayerName] = set()
        pending = [start]
        while pending:
            for name in self._after.get(pending.pop(), set()) - found:
                found.add(name)
                pending.append(name)
        return found
