"""The published algorithms of batch normalization, in a few lines of readable float64 code.

The two algorithms of Ioffe & Szegedy, "Batch Normalization: Accelerating Deep Network Training by
Reducing Internal Covariate Shift" (2015), for one channel axis and any number of positions, and
the definition of exact statistics in this package. The code is independent of the engines: tests
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
    """Return mean and variance of one mini-batch, over samples and positions.

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
    """Normalize with given statistics: γ·(x - μ)/√(σ² + ε) + β (lines 3 and 4; Alg. 2, line 11)."""
    mean, var, gamma, beta = (
        _over_positions(x, vector) for vector in (statistics.mean, statistics.var, scale, shift)
    )
    return np.asarray(gamma * (x - mean) / np.sqrt(var + eps) + beta)


def train_step(
    x: Float64Array, *, scale: Float64Array, shift: Float64Array, eps: float
) -> tuple[Float64Array, RunningStatistics]:
    """Algorithm 1: normalize a mini-batch by its own statistics.

    Returns:
        The normalized batch and its statistics.
    """
    statistics = batch_statistics(x)
    return normalize(x, statistics, scale=scale, shift=shift, eps=eps), statistics


def paper_population_statistics(batches: Sequence[Float64Array]) -> RunningStatistics:
    """Algorithm 2, line 10: E[x] = E_B[μ_B], Var[x] = m/(m - 1) · E_B[σ_B²].

    Averages over mini-batches of the same size m. The variance between the batch means is not
    included, so the variance of an ordered stream is too small.
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
    """Return the moving averages of section 3.1, as deep-learning libraries compute them.

    Each batch moves the statistics by a fraction `momentum` toward its own mean and unbiased
    variance; the initial value has the weight (1 - momentum)ⁿ after n batches.
    """
    mean, var = start.mean, start.var
    for batch in batches:
        found = paper_population_statistics([batch])
        mean = (1 - momentum) * mean + momentum * found.mean
        var = (1 - momentum) * var + momentum * found.var
    return RunningStatistics(mean=mean, var=var)


def population_statistics(batches: Sequence[Float64Array]) -> RunningStatistics:
    """Return the statistics of exact recalibration: all samples as one mini-batch of Algorithm 1.

    Batch sizes and order do not matter. In a deep network, x is the input of a layer when all
    previous layers normalize with their own population statistics.
    """
    return batch_statistics(np.concatenate(list(batches)))


def _all_but_channels(x: Float64Array) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _over_positions(x: Float64Array, vector: Float64Array) -> Float64Array:
    return vector.reshape(1, -1, *([1] * (x.ndim - 2)))


def _values_per_channel(x: Float64Array) -> int:
    return int(x.size // x.shape[1])
