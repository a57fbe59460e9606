"""Replace: the target's moments alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bn_ops.core.moments import Moments
from bn_ops.core.statistics import RunningStatistics

__all__ = ["Replace"]


@dataclass(frozen=True, slots=True)
class Replace:
    """New statistics are the target's pooled mean and population variance.

    Population (sum_sq_dev / count), not unbiased: train-mode normalisation divides by it, so the
    deployed network's own statistics are reproduced only with it.

    Source: Ioffe & Szegedy 2015, Algorithm 1 (mini-batch mean and variance), the batch being the
        stream.
    """

    def __call__(self, source: RunningStatistics, moments: Moments) -> RunningStatistics:
        """Return the target's moments; the source is not used."""
        del source
        return RunningStatistics(mean=moments.mean, var=moments.var_population)

    def to_json(self) -> Mapping[str, str | int | float | bool]:
        """Return the JSON form."""
        return {"name": "replace"}
