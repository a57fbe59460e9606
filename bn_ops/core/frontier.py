"""The one loop of recalibration, over a protocol small enough for every engine.

An engine knows how to push all batches up to the next layers whose inputs are computable, and how
to settle the layers there. The loop, the estimators and sharding know nothing about engines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bn_ops.core.estimators import Estimator, Guarded, guard
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moments import Moments, merge_all
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.errors import LayerNotFiniteError

__all__ = ["Frontier", "Settlement", "ShardedFrontier", "settle"]


class Frontier(Protocol):
    """A model and a stream, advanced layer by layer."""

    def advance(self) -> Mapping[LayerName, Moments]:
        """Run every batch up to the next layers; return their moments, or nothing when done."""
        ...

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Settle the layers that the last `advance` returned: later layers see these statistics."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """One settled layer: what it had, what was measured, what it has now."""

    source: RunningStatistics
    moments: Moments
    guarded: Guarded

    @property
    def statistics(self) -> RunningStatistics:
        """The new running statistics."""
        return self.guarded.statistics


def settle(
    frontier: Frontier, layers: Mapping[LayerName, LayerInfo], estimate: Estimator
) -> dict[LayerName, Settlement]:
    """Advance and commit until nothing is left.

    Returns:
        Every settled layer, in the order of settling.

    Raises:
        LayerNotFiniteError: a layer's input holds NaN or Inf although every batch is finite.
    """
    settled: dict[LayerName, Settlement] = {}
    while moments := frontier.advance():
        step = {
            name: settle_layer(layers[name], measured, estimate)
            for name, measured in moments.items()
        }
        frontier.commit({name: s.statistics for name, s in step.items()})
        settled.update(step)
    return settled


def settle_layer(layer: LayerInfo, moments: Moments, estimate: Estimator) -> Settlement:
    """Estimate and guard one layer's new statistics."""
    check_finite(layer.name, moments)
    source = layer.statistics
    if source is None:
        # A layer adopted without statistics of its own: nothing to hold on to.
        source = RunningStatistics(mean=moments.mean, var=moments.var_population)
    guarded = guard(source, estimate(source, moments), eps=layer.eps)
    return Settlement(source=source, moments=moments, guarded=guarded)


def check_finite(name: LayerName, moments: Moments, *, batch: int | None = None) -> None:
    """Refuse moments that NaN or Inf has reached.

    Raises:
        LayerNotFiniteError: names the layer and, where given, the batch.
    """
    bad = ~(np.isfinite(moments.mean) & np.isfinite(moments.sum_sq_dev))
    if bad.any():
        where = "" if batch is None else f" in batch {batch}"
        raise LayerNotFiniteError(
            f"layer {name!r}: its input holds NaN or Inf{where} in {int(bad.sum())} of {bad.size} "
            f"channels (first: {int(np.flatnonzero(bad)[0])}) although the batch is finite: "
            "the network overflows or divides by zero before it",
            layer=name,
            batch=batch,
        )


class ShardedFrontier:
    """Several frontiers over shards of one stream, advanced in step.

    Only moments are merged, in the order of the shards, so the result has the same bits on any
    number of workers.
    """

    def __init__(self, shards: Sequence[Frontier]) -> None:
        self._shards = tuple(shards)

    def advance(self) -> Mapping[LayerName, Moments]:
        """Advance every shard and merge what they measured."""
        found = [shard.advance() for shard in self._shards]
        names = dict.fromkeys(name for shard in found for name in shard)
        return {name: merge_all(shard[name] for shard in found if name in shard) for name in names}

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Settle the layers on every shard."""
        for shard in self._shards:
            shard.commit(statistics)
