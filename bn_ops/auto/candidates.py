"""The statistics of each candidate.

`REPLACE` has the statistics that the exact pass over the whole stream gave; `SOURCE` has the
source's. The other candidates move part of the way, which changes the inputs of later layers. These
candidates are measured by an exact pass over the probe, in which the layers before a layer have
the statistics of the candidate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

from bn_ops.core.engine import Engine
from bn_ops.core.estimators import Guarded, Shrink, TargetMoments
from bn_ops.core.frontier import Estimate, LayerUpdate, commit_layers
from bn_ops.core.layers import LayerInfo
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.diagnostics.forward_pass import ForwardPass
from bn_ops.diagnostics.probe import Probe, replayed_probe
from bn_ops.diagnostics.report import Candidate

__all__ = ["Mixture", "are_unset", "candidate_updates", "early_layers"]

ModelT = TypeVar("ModelT")
BatchT = TypeVar("BatchT")

# The share of the target in every layer (`SMALL`), and in those after the early ones (`EARLY`).
_SMALL_SHARE = 0.02
_LATE_SHARE = 0.1

# `EARLY` has the target's statistics in one of this many layers, rounded up.
_EARLY_PART = 3


@dataclass(frozen=True, slots=True)
class Mixture:
    """Statistics of the mixture of source and target.

    μ = μs + w(μt - μs), σ² = (1 - w)σs² + wσt² + w(1 - w)(μt - μs)², by the law of total variance.

    Args:
        share: w, the target's share of the mixture.
    """

    share: float

    def __call__(self, source: RunningStatistics, moments: TargetMoments, /) -> RunningStatistics:
        """Return the statistics of the mixture."""
        w, moved = self.share, moments.mean - source.mean
        return RunningStatistics(
            mean=source.mean + w * moved,
            var=(1 - w) * source.var + w * moments.var + w * (1 - w) * moved**2,
        )


_ESTIMATES: Mapping[Candidate, Estimate] = {
    Candidate.EARLY: Mixture(_LATE_SHARE),
    Candidate.SMALL: Mixture(_SMALL_SHARE),
    Candidate.SHRINK: Shrink(),
}


def are_unset(layers: Mapping[LayerName, LayerInfo]) -> bool:
    """Return whether the source statistics of all layers are as a framework initializes them."""
    known = [info.statistics for info in layers.values() if info.statistics is not None]
    return all(bool((s.mean == 0).all() and (s.var == 1).all()) for s in known)


def early_layers(target: Mapping[LayerName, LayerUpdate]) -> dict[LayerName, LayerUpdate]:
    """Return the first third of the layers, rounded up, in the order of execution."""
    return dict(islice(target.items(), math.ceil(len(target) / _EARLY_PART)))


def candidate_updates(
    candidate: Candidate,
    engine: Engine[ModelT, BatchT],
    probe: Probe[BatchT],
    target: Mapping[LayerName, LayerUpdate],
    *,
    layers: bool = True,
) -> tuple[Mapping[LayerName, LayerUpdate], ForwardPass | None]:
    """Return a candidate's update of every layer.

    Args:
        candidate: the candidate.
        engine: runs an exact pass over the probe where the candidate needs one.
        probe: the probe.
        target: the updates of `Replace` over the whole stream, in the order of execution.
        layers: whether to observe the inputs of layers.

    Returns:
        The updates, and the probe under their statistics where an exact pass observed it.
    """
    if candidate is Candidate.REPLACE:
        return target, None
    if candidate is Candidate.SOURCE:
        return {name: _unchanged(update) for name, update in target.items()}, None
    infos = {info.name: info for info in engine.layers if info.name in engine.selected}
    known = early_layers(target) if candidate is Candidate.EARLY else {}
    estimate = _ESTIMATES[candidate]
    positions = range(probe.samples)
    # Where inputs of layers are reported, all of them have to be measured.
    given = None if layers else {name: update.statistics for name, update in known.items()}
    with engine.frontier(
        probe.batches(), phase="choosing", observed=lambda: positions, known=given
    ) as frontier:
        found = commit_layers(frontier, infos, estimate, known=known)
        observed = replayed_probe(frontier, probe, positions, layers=layers)
    # A layer that no sample of the probe reaches keeps the source statistics. An engine that
    # measures layers of known statistics measures all that are reached.
    skipped = {} if known.keys() & found.keys() else known
    updates = {
        name: found.get(name) or skipped.get(name) or _unchanged(update)
        for name, update in target.items()
    }
    return updates, observed


def _unchanged(update: LayerUpdate) -> LayerUpdate:
    """Return an update that keeps the source statistics, with the moments that were measured."""
    kept = Guarded(statistics=update.source, dead=(), silenced=(), amplification=1.0)
    return replace(update, guarded=kept)
