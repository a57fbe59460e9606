"""Batch normalisation as it was published, in a few lines of float64, to be read.

The two algorithms of Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift" (2015), for one channel axis and any number of positions, and
what this package means by exact. Nothing here is fast, and nothing of the engines is used: tests
compare the engines with it.

All arrays have the layout (N, C, *spatial); statistics have shape (C,).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bn_ops.core.statistics import Float64Array, RunningStatistics

__all__ = [
    "batch_statistics",
    "moving_average",
    "normalize",
    "paper_population_statistics",
    "population_statistics",
    "train_step",
]


def batch_statistics(x: Float64Array) -> RunningStatistics:
    """Mean and variance of one mini-batch, over samples and positions.

    The variance divides by m, the number of values per channel (Algorithm 1, lines 1 and 2).
    """
    axes = _all_but_channels(x)
    return RunningStatistics(mean=x.mean(axis=axes), var=x.var(axis=axes))


def normalize(
    x: Float64Array,
    statistics: RunningStatistics,
    *,
    scale: Float64Array,
    shift: Float64Array,
    eps: float,
) -> Float64Array:
    """Normalise with given statistics: γ·(x - μ)/√(σ² + ε) + β (lines 3 and 4; Alg. 2, line 11)."""
    mean, var, gamma, beta = (
        _over_positions(x, vector) for vector in (statistics.mean, statistics.var, scale, shift)
    )
    return np.asarray(gamma * (x - mean) / np.sqrt(var + eps) + beta)


def train_step(
    x: Float64Array, *, scale: Float64Array, shift: Float64Array, eps: float
) -> tuple[Float64Array, RunningStatistics]:
    """Algorithm 1: normalize a mini-batch by its own statistics.

    Returns:
        The normalised batch and the statistics that it was normalised with.
    """
    statistics = batch_statistics(x)
    return normalize(x, statistics, scale=scale, shift=shift, eps=eps), statistics


def paper_population_statistics(batches: Sequence[Float64Array]) -> RunningStatistics:
    """Algorithm 2, line 10: E[x] = E_B[μ_B], Var[x] = m/(m - 1) · E_B[σ_B²].

    Averages over mini-batches of one size m. What differs between the batches' means is not part
    of this variance, so an ordered stream comes out too narrow.
    """
    each = [batch_statistics(batch) for batch in batches]
    unbiased = [
        found.var * (_values_per_channel(batch) / (_values_per_channel(batch) - 1))
        for found, batch in zip(each, batches, strict=True)
    ]
    return RunningStatistics(
        mean=np.mean([found.mean for found in each], axis=0), var=np.mean(unbiased, axis=0)
    )


def moving_average(
    start: RunningStatistics, batches: Sequence[Float64Array], momentum: float
) -> RunningStatistics:
    """Section 3.1's moving averages, as deep-learning libraries keep them during training.

    Each batch pulls the statistics a fraction `momentum` of the way to its own mean and unbiased
    variance; (1 - momentum)ⁿ of the start remains after n batches.
    """
    mean, var = start.mean, start.var
    for batch in batches:
        found = paper_population_statistics([batch])
        mean = (1 - momentum) * mean + momentum * found.mean
        var = (1 - momentum) * var + momentum * found.var
    return RunningStatistics(mean=mean, var=var)


def population_statistics(batches: Sequence[Float64Array]) -> RunningStatistics:
    """What exact recalibration stores: all samples as one mini-batch of Algorithm 1.

    It needs no assumption on the batches' sizes or order. In a deep network each layer's x is what
    arrives there when every layer before it normalises with its own population statistics.
    """
    return batch_statistics(np.concatenate(list(batches)))


def _all_but_channels(x: Float64Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _over_positions(x: Float64Array, vector: Float64Array) -> Float64Array:
    return vector.reshape(1, -1, *([1] * (x.ndim - 2)))


def _values_per_channel(x: Float64Array) -> int:
    return int(x.size // x.shape[1])
