"""Replace: the target's moments alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from bn_ops.core.estimators.base import TargetMoments
from bn_ops.core.statistics import RunningStatistics

__all__ = ["Replace"]


@dataclass(frozen=True, slots=True)
class Replace:
    """Use the target's pooled mean and population variance.

    The population variance (sum_sq_dev / count) is used and not the unbiased one, because
    train-mode normalization divides by it: only with it does the deployed network reproduce its own
    statistics.

    Source: Ioffe & Szegedy 2015, Algorithm 1 (mini-batch mean and variance), with the whole stream
        as the mini-batch.
    """

    per_batch: ClassVar[bool] = False

    def __call__(self, source: RunningStatistics, moments: TargetMoments, /) -> RunningStatistics:
        """Return the target's moments; the source is not used."""
        del source
        return RunningStatistics(mean=moments.mean, var=moments.var)

    def to_json(self) -> Mapping[str, str | int | float | bool]:
        """Return the JSON form."""
        return {"name": "replace"}
