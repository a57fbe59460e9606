"""The interface of an estimator."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Protocol, runtime_checkable

from bn_ops.core.moments import SampleSums
from bn_ops.core.statistics import Float64Array, RunningStatistics

__all__ = ["Estimator", "TargetMoments", "is_number"]


def is_number(value: object) -> bool:
    """Return whether a parameter is a real number, of Python or numpy, and not a boolean."""
    return isinstance(value, Real) and not isinstance(value, bool)


class TargetMoments(Protocol):
    """What an estimator reads about the target; `bn_ops.core.moments.Moments` is one."""

    @property
    def samples(self) -> int:
        """Number of samples n."""
        ...

    @property
    def count(self) -> int:
        """Number of values per channel: samples times positions."""
        ...

    @property
    def mean(self) -> Float64Array:
        """Mean, shape (C,)."""
        ...

    @property
    def var(self) -> Float64Array:
        """Variance, shape (C,): the population variance unless `variance=` asks for another."""
        ...

    @property
    def sample_sums(self) -> SampleSums:
        """Sample-wise sums for standard errors."""
        ...


@runtime_checkable
class Estimator(Protocol):
    """A pure, deterministic function from (source statistics, target moments) to new statistics."""

    @property
    def per_batch(self) -> bool:
        """Whether `method="batch"` applies it once per batch, each result being the next source."""
        ...

    def __call__(self, source: RunningStatistics, moments: TargetMoments, /) -> RunningStatistics:
        """Return the new running statistics of one layer; shapes (C,) in and out, float64."""
        ...

    def to_json(self) -> Mapping[str, str | int | float | bool]:
        """Return the JSON form, including the estimator's `name`."""
        ...
