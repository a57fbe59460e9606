"""Per-sample moments of the first BatchNorm inputs, and their distance to the stored statistics.

A channel's distance is the 2-Wasserstein distance between two normal distributions, the measured
one and the stored one, in units of the stored standard deviation:
`√(((μ − μₛ)/σₛ)² + (σ/σₛ − 1)²)`. The network's distance is the median over its live channels: a
few odd channels, dead ones for example, do not move it, and a wrong scale moves every channel.

Source of the closed form: Dowson & Landau, "The Fréchet distance between multivariate normal
distributions" (1982), equation 16, in one dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.moments import per_sample
from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics

__all__ = [
    "SampleMoments",
    "channel_distances",
    "concatenate",
    "is_untrained",
    "jackknife_distances",
    "live_channels",
    "measure_samples",
    "median_distance",
    "spread_ratio",
]

# A stored variance below either bound holds rounding noise: 1e-10 in absolute terms (MobileNetV2's
# dead channels end there), or a millionth of the largest variance among the first layers.
_MIN_VARIANCE = 1e-10
_MIN_VARIANCE_SHARE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleMoments:
    """Moments of n samples at the first BatchNorm layers, the layers' channels side by side.

    Attributes:
        layers: names of the layers.
        source: the stored statistics of the same channels, shape (C,).
        mean: each sample's mean over positions, shape (n, C), float64.
        var: each sample's population variance over positions, shape (n, C), float64.
    """

    layers: tuple[LayerName, ...]
    source: RunningStatistics
    mean: Float64Array
    var: Float64Array

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return int(self.mean.shape[0])


def measure_samples(x: NDArray[np.generic]) -> tuple[Float64Array, Float64Array]:
    """Return each sample's mean and population variance, two arrays of shape (n, C).

    Args:
        x: a layer's input, layout (N, C, *spatial), any floating dtype.
    """
    mean, sq_dev = per_sample(x)
    positions = int(np.prod(x.shape[2:], dtype=np.int64))
    return mean, sq_dev / positions


def concatenate(parts: Sequence[SampleMoments]) -> SampleMoments:
    """Return the moments of all samples, in the order given; every part is of the same layers."""
    return SampleMoments(
        layers=parts[0].layers,
        source=parts[0].source,
        mean=np.concatenate([part.mean for part in parts]),
        var=np.concatenate([part.var for part in parts]),
    )


def live_channels(source: RunningStatistics) -> NDArray[np.bool_]:
    """Return which channels have a stored variance that is more than rounding noise, shape (C,)."""
    floor = max(_MIN_VARIANCE, _MIN_VARIANCE_SHARE * float(source.var.max(initial=0.0)))
    return np.asarray(source.var > floor)


def is_untrained(source: RunningStatistics) -> bool:
    """Return whether the stored statistics are those of a new layer: mean 0, variance 1."""
    return bool((source.mean == 0).all() and (source.var == 1).all())


def channel_distances(moments: SampleMoments) -> Float64Array:
    """Return the distance of every live channel, each sample weighted the same; shape (live,)."""
    total_mean = moments.mean.sum(axis=0)
    total_square = (moments.var + moments.mean**2).sum(axis=0)
    return _distances(moments.source, total_mean, total_square, moments.samples)


def jackknife_distances(moments: SampleMoments) -> Float64Array:
    """Return the median distance with each sample left out in turn, shape (n,); needs n ≥ 2."""
    # Around the pooled mean, so that no precision is lost where the mean is far from zero.
    center = moments.mean.mean(axis=0)
    mean = moments.mean - center
    square = moments.var + mean**2
    source = RunningStatistics(mean=moments.source.mean - center, var=moments.source.var)
    left_out = _distances(
        source, mean.sum(axis=0) - mean, square.sum(axis=0) - square, moments.samples - 1
    )
    return np.asarray(np.median(left_out, axis=-1), dtype=np.float64)


def median_distance(moments: SampleMoments) -> float:
    """Return the median distance over live channels; NaN where no channel is live."""
    distances = channel_distances(moments)
    return float(np.median(distances)) if distances.size else float("nan")


def spread_ratio(moments: SampleMoments) -> float:
    """Return the median over live channels of measured over stored standard deviation."""
    live = live_channels(moments.source)
    var = (moments.var + (moments.mean - moments.mean.mean(axis=0)) ** 2).mean(axis=0)
    return float(np.median(np.sqrt(var[live] / moments.source.var[live])))


def _distances(
    source: RunningStatistics, total_mean: Float64Array, total_square: Float64Array, samples: int
) -> Float64Array:
    live = live_channels(source)
    mean = total_mean[..., live] / samples
    var = np.maximum(total_square[..., live] / samples - mean**2, 0)
    sigma = np.sqrt(source.var[live])
    shift = (mean - source.mean[live]) / sigma
    spread = np.sqrt(var) / sigma - 1
    return np.hypot(shift, spread)
