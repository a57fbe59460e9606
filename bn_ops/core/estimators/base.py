"""What every estimator is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from bn_ops.core.moments import Moments
from bn_ops.core.statistics import RunningStatistics

__all__ = ["Estimator"]


@runtime_checkable
class Estimator(Protocol):
    """A pure, deterministic function from (source statistics, target moments) to new statistics."""

    def __call__(self, source: RunningStatistics, moments: Moments) -> RunningStatistics:
        """Return the new running statistics of one layer; shapes (C,) in and out, float64."""
        ...

    def to_json(self) -> Mapping[str, str | int | float | bool]:
        """Return the JSON form, with the estimator's `name`."""
        ...
