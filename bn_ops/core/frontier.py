"""The loop of an exact recalibration, over an interface that every engine can implement.

An engine runs all batches up to the next layers whose inputs can be computed, and stores new
statistics in these layers. The loop, the estimators and sharding do not depend on the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from bn_ops.core.estimators import Guarded, TargetMoments, guard
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moment_tree import MomentTree
from bn_ops.core.moments import Moments
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.errors import LayerNotFiniteError

__all__ = ["Estimate", "Frontier", "LayerUpdate", "OnUpdate", "commit_layers"]

Estimate: TypeAlias = Callable[[RunningStatistics, TargetMoments], RunningStatistics]
"""Returns new statistics for the source statistics and the target's moments, as an estimator."""


class Frontier(Protocol):
    """A model and a stream, advanced layer by layer."""

    def advance(self) -> Mapping[LayerName, MomentTree]:
        """Run every batch up to the next layers; return their moments, or an empty mapping."""
        ...

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Set the statistics of the layers of the last `advance`, for the rest of the run."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerUpdate:
    """One recalibrated layer.

    Attributes:
        source: the statistics that the layer had.
        moments: the moments of its input.
        guarded: its new statistics, and what the guards changed.
    """

    source: RunningStatistics
    moments: Moments
    guarded: Guarded

    @property
    def statistics(self) -> RunningStatistics:
        """The new running statistics."""
        return self.guarded.statistics


OnUpdate: TypeAlias = Callable[[LayerName, LayerUpdate], None]
"""Receives a layer and its update."""


def commit_layers(
    frontier: Frontier,
    layers: Mapping[LayerName, LayerInfo],
    estimate: Estimate,
    *,
    known: Mapping[LayerName, LayerUpdate] | None = None,
    on_update: OnUpdate | None = None,
) -> dict[LayerName, LayerUpdate]:
    """Advance and commit until the frontier has passed the last layer.

    Args:
        frontier: the frontier.
        layers: the layers that it measures.
        estimate: gives the statistics of a layer.
        known: updates to commit instead of estimating the layer's statistics.
        on_update: called with each layer as soon as its statistics are committed.

    Returns:
        The update of every layer, in the order of commits.

    Raises:
        LayerNotFiniteError: a layer's input holds NaN or Inf although every batch is finite.
    """
    updates: dict[LayerName, LayerUpdate] = {}
    given = known or {}
    while measured := frontier.advance():
        step = {
            name: given.get(name) or update_layer(layers[name], tree.total(), estimate)
            for name, tree in measured.items()
        }
        frontier.commit({name: update.statistics for name, update in step.items()})
        updates.update(step)
        if on_update is not None:
            for name, update in step.items():
                on_update(name, update)
    return updates


def update_layer(layer: LayerInfo, moments: Moments, estimate: Estimate) -> LayerUpdate:
    """Estimate and guard one layer's new statistics."""
    check_finite(layer.name, moments)
    source = source_of(layer, moments)
    guarded = guard(source, estimate(source, moments), eps=layer.eps)
    return LayerUpdate(source=source, moments=moments, guarded=guarded)


def source_of(layer: LayerInfo, moments: Moments) -> RunningStatistics:
    """Return the layer's source statistics; the moments for a layer that never had any."""
    if layer.statistics is not None:
        return layer.statistics
    return RunningStatistics(mean=moments.mean, var=moments.var_population)


def check_finite(name: LayerName, moments: Moments, *, batch: int | None = None) -> None:
    """Reject moments that contain NaN or Inf.

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
