"""Turn the batches of a train-mode pass into each layer's statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from bn_ops.core.estimators import Estimator, TargetMoments, guard
from bn_ops.core.frontier import LayerUpdate, source_of
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moments import Moments, SampleSums, merge
from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
from bn_ops.errors import BatchShapeError, OptionError

__all__ = ["TrainAccumulators", "Variance", "check_variance"]

Variance = Literal["population", "unbiased", "mean_of_batches"]
"""How batches are combined into one variance.

`population`: Σ(x - mean)² / count over all batches together, as fvcore's PreciseBN.
`unbiased`: the same over count - 1.
`mean_of_batches`: the averages of the batches' means and of their unbiased variances, all batches
weighted equally, as torch's `update_bn` and AIMET; variance between batches is lost.
"""

_MIN_COUNT = 2


def check_variance(variance: str) -> None:
    """Reject an unknown `variance=` option.

    Raises:
        OptionError: not one of `Variance`.
    """
    if variance not in get_args(Variance):
        raise OptionError(
            f"unknown variance {variance!r}; choose from {', '.join(get_args(Variance))}"
        )


class TrainAccumulators:
    """Collects the moments of a train-mode pass, per layer and batch.

    Args:
        layers: the layers of the run.
        estimator: applied once per batch or once to the whole stream; see `Estimator.per_batch`.
        variance: see `Variance`.
    """

    def __init__(
        self, layers: Mapping[LayerName, LayerInfo], estimator: Estimator, variance: Variance
    ) -> None:
        self._layers = layers
        self._estimator = estimator
        self._variance: Variance = variance
        self._by_layer: dict[LayerName, _LayerAccumulator] = {}

    def add(self, name: LayerName, moments: Moments, batch: int) -> None:
        """Add one batch of a layer.

        Raises:
            BatchShapeError: one value per channel, which has no unbiased variance.
        """
        if name not in self._by_layer:
            self._by_layer[name] = _LayerAccumulator(
                self._layers[name], self._estimator, self._variance
            )
        self._by_layer[name].add(moments, batch)

    def updates(self) -> dict[LayerName, LayerUpdate]:
        """Return the update of each layer, in the order in which layers were first reached."""
        return {name: layer.update() for name, layer in self._by_layer.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Moments of the target with the variance that the caller asked for."""

    samples: int
    count: int
    mean: Float64Array
    var: Float64Array
    sample_sums: SampleSums


def _with_var(
    moments: Moments, var: Float64Array, *, mean: Float64Array | None = None
) -> TargetMoments:
    return _Target(
        samples=moments.samples,
        count=moments.count,
        mean=moments.mean if mean is None else mean,
        var=var,
        sample_sums=moments.sample_sums,
    )


class _LayerAccumulator:
    """The batches of one layer: pooled, averaged, and applied one by one."""

    def __init__(self, layer: LayerInfo, estimator: Estimator, variance: Variance) -> None:
        self._layer = layer
        self._estimator = estimator
        self._variance = variance
        self._running = layer.statistics
        self._pooled: Moments | None = None
        self._mean_sum: Float64Array = np.zeros(())
        self._var_sum: Float64Array = np.zeros(())
        self._batches = 0

    def add(self, moments: Moments, batch: int) -> None:
        self._pooled = moments if self._pooled is None else merge(self._pooled, moments)
        self._batches += 1
        if self._variance == "population" and not self._estimator.per_batch:
            return
        target = self._batch_target(moments, batch)
        self._mean_sum = self._mean_sum + target.mean
        self._var_sum = self._var_sum + target.var
        if self._running is not None:
            self._running = self._estimator(self._running, target)

    def update(self) -> LayerUpdate:
        """Estimate and guard the layer's new statistics."""
        assert self._pooled is not None
        source = source_of(self._layer, self._pooled)
        guarded = guard(source, self._estimate(source, self._pooled), eps=self._layer.eps)
        return LayerUpdate(source=source, moments=self._pooled, guarded=guarded)

    def _batch_target(self, moments: Moments, batch: int) -> TargetMoments:
        if self._variance == "population":
            return moments
        if moments.count < _MIN_COUNT:
            raise BatchShapeError(
                f"batch {batch} gives layer {self._layer.name!r} one value per channel, which has "
                'no unbiased variance: use larger batches, variance="population", or '
                'method="exact"',
                batch=batch,
            )
        return _with_var(moments, moments.var_unbiased)

    def _estimate(self, source: RunningStatistics, pooled: Moments) -> RunningStatistics:
        if self._estimator.per_batch and self._running is not None:
            return self._running
        return self._estimator(source, self._pooled_target(pooled))

    def _pooled_target(self, pooled: Moments) -> TargetMoments:
        if self._variance == "population":
            return pooled
        if self._variance == "unbiased":
            return _with_var(pooled, pooled.var_unbiased)
        return _with_var(pooled, self._var_sum / self._batches, mean=self._mean_sum / self._batches)
