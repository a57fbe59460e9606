"""How the batches of a train-mode pass become one layer's statistics."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from bn_ops.core.estimators import Estimator, Momentum, guard
from bn_ops.core.frontier import Settlement
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moments import Moments, merge
from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
from bn_ops.errors import BatchShapeError, OptionError

__all__ = ["Tally", "Variance", "check_variance", "settle_tally"]

Variance = Literal["population", "unbiased", "mean_of_batches"]
"""How batches become one variance.

`population`: Σ(x - mean)² / count over all batches together, which PreciseBN estimates.
`unbiased`: the same over count - 1.
`mean_of_batches`: plain averages of the batches' means and unbiased variances, each batch with
the same weight, which torch's `update_bn` and AIMET hold; variance between batches is lost.
"""

_LEAST_COUNT = 2


def check_variance(variance: str) -> None:
    """Refuse an unknown way to make a variance.

    Raises:
        OptionError: not one of `Variance`.
    """
    if variance not in get_args(Variance):
        raise OptionError(
            f"unknown variance {variance!r}; there are {', '.join(get_args(Variance))}"
        )


class Tally:
    """One layer's batches: pooled, averaged, and run through a moving average.

    Args:
        name: the layer, for messages.
        source: its source statistics.
        estimator: a `Momentum` makes one step per batch, any other sees the whole stream at once.
        variance: see `Variance`.
    """

    def __init__(
        self,
        name: LayerName,
        source: RunningStatistics | None,
        estimator: Estimator,
        variance: Variance,
    ) -> None:
        self._name = name
        self._estimator = estimator
        self._variance = variance
        self._running = source
        self._pooled: Moments | None = None
        self._mean_sum: Float64Array = np.zeros(())
        self._var_sum: Float64Array = np.zeros(())
        self._batches = 0

    def add(self, moments: Moments, *, batch: int) -> None:
        """Take one batch in.

        Raises:
            BatchShapeError: one value per channel, where an unbiased variance is asked for.
        """
        self._pooled = moments if self._pooled is None else merge(self._pooled, moments)
        self._batches += 1
        if self._variance == "population" and not isinstance(self._estimator, Momentum):
            return
        seen = self._as_one_batch(moments, batch)
        self._mean_sum = self._mean_sum + seen.mean
        self._var_sum = self._var_sum + seen.var_population
        if self._running is not None:
            self._running = self._estimator(self._running, seen)

    def _as_one_batch(self, moments: Moments, batch: int) -> Moments:
        if self._variance == "population":
            return moments
        if moments.count < _LEAST_COUNT:
            raise BatchShapeError(
                f"batch {batch} gives layer {self._name!r} one value per channel, which has no "
                'unbiased variance: use larger batches, variance="population", or method="exact"',
                batch=batch,
            )
        return _with_var(moments, moments.var_unbiased)

    @property
    def pooled(self) -> Moments | None:
        """All batches as one set of samples; None before the first."""
        return self._pooled

    def estimate(self, source: RunningStatistics) -> RunningStatistics:
        """Return the layer's new statistics."""
        if isinstance(self._estimator, Momentum) and self._running is not None:
            return self._running
        return self._estimator(source, self._target())

    def _target(self) -> Moments:
        assert self._pooled is not None
        if self._variance == "population":
            return self._pooled
        if self._variance == "unbiased":
            return _with_var(self._pooled, self._pooled.var_unbiased)
        averaged = _with_var(self._pooled, self._var_sum / self._batches)
        return replace(averaged, mean=self._mean_sum / self._batches)


def settle_tally(layer: LayerInfo, tally: Tally) -> Settlement:
    """Estimate and guard a layer's statistics from what its tally holds."""
    pooled = tally.pooled
    assert pooled is not None
    source = layer.statistics
    if source is None:
        source = RunningStatistics(mean=pooled.mean, var=pooled.var_population)
    guarded = guard(source, tally.estimate(source), eps=layer.eps)
    return Settlement(source=source, moments=pooled, guarded=guarded)


def _with_var(moments: Moments, var: Float64Array) -> Moments:
    """Return moments whose `var_population` is another variance, as estimators read that."""
    return replace(moments, sum_sq_dev=var * moments.count)
