"""Per-sample moments of the first BatchNorm inputs, and their distance to the stored statistics.

A channel's distance is the 2-Wasserstein distance between two normal distributions, the measured
one and the stored one, in units of the stored standard deviation:
`√(((μ − μₛ)/σₛ)² + (σ/σₛ − 1)²)`. The network's distance is the median over its live channels: a
few odd channels, dead ones for example, do not move it, and a wrong scale moves every channel.

Whether one of two distances is significantly smaller is judged by a jackknife over groups of
samples, because images of the same scene are not independent.

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
    "Groups",
    "SampleMoments",
    "channel_distances",
    "concatenate",
    "is_closer",
    "is_untrained",
    "jackknife_distances",
    "live_channels",
    "measure_samples",
    "median_distance",
    "spread_ratio",
    "student_quantile",
]

# A stored variance below either bound holds rounding noise: 1e-10 in absolute terms (MobileNetV2's
# dead channels end there), or a millionth of the largest variance among the first layers.
_MIN_VARIANCE = 1e-10
_MIN_VARIANCE_SHARE = 1e-6

# Standard errors that a difference of two distances must exceed, for many groups. A normal deviate
# exceeds three in 0.3 % of cases.
_SIGNIFICANT = 3.0

# Fewer groups give no usable standard error.
_MIN_GROUPS = 8

Groups = NDArray[np.intp]
"""The number of each sample's group, shape (n,): 0 … groups − 1, each at least once."""


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


def jackknife_distances(moments: SampleMoments, groups: Groups | None = None) -> Float64Array:
    """Return the median distance with each group left out in turn, shape (groups,).

    Args:
        moments: of at least two groups.
        groups: the group of each sample; by default, each sample is one.
    """
    # Around the pooled mean, so that no precision is lost where the mean is far from zero.
    center = moments.mean.mean(axis=0)
    mean = moments.mean - center
    square = moments.var + mean**2
    source = RunningStatistics(mean=moments.source.mean - center, var=moments.source.var)
    if groups is None:
        groups = np.arange(moments.samples)
    member = groups == np.arange(groups.max() + 1)[:, None]
    left_out = _distances(
        source,
        mean.sum(axis=0) - member @ mean,
        square.sum(axis=0) - member @ square,
        moments.samples - member.sum(axis=1, keepdims=True),
    )
    return np.asarray(np.median(left_out, axis=-1), dtype=np.float64)


def is_closer(near: SampleMoments, far: SampleMoments, groups: Groups | None = None) -> bool:
    """Return whether `near` is significantly closer to the stored statistics than `far`.

    The standard error of the difference of the two median distances is the jackknife's, paired and
    over groups, which need not be of the same size; with few groups, the quantile is Student's.

    Args:
        near: moments of n samples under one preprocessing.
        far: moments of the same samples under another one.
        groups: the group of each sample, where samples of a group are not independent of each
            other; by default, each sample is one. Fewer than 8 groups are never significant.

    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), section 11.4; over
        groups: MacKinnon, Nielsen & Webb, "Fast and reliable jackknife and bootstrap methods for
        cluster-robust inference" (2023), where it is called CV3J.
    """
    count = near.samples if groups is None else int(groups.max()) + 1
    if count < _MIN_GROUPS:
        return False
    difference = median_distance(far) - median_distance(near)
    left_out = jackknife_distances(far, groups) - jackknife_distances(near, groups)
    error = np.sqrt((count - 1) / count * ((left_out - left_out.mean()) ** 2).sum())
    return bool(difference > student_quantile(count - 1) * error)


def student_quantile(freedom: int) -> float:
    """Return what Student's t exceeds as rarely as a normal deviate exceeds three.

    Args:
        freedom: degrees of freedom, at least 7. The error is then below 0.02.

    Source: Abramowitz & Stegun, "Handbook of Mathematical Functions" (1964), 26.7.5.
    """
    z = _SIGNIFICANT
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return float(z + first + second + third)


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
    source: RunningStatistics,
    total_mean: Float64Array,
    total_square: Float64Array,
    samples: int | NDArray[np.intp],
) -> Float64Array:
    live = live_channels(source)
    mean = total_mean[..., live] / samples
    var = np.maximum(total_square[..., live] / samples - mean**2, 0)
    sigma = np.sqrt(source.var[live])
    shift = (mean - source.mean[live]) / sigma
    spread = np.sqrt(var) / sigma - 1
    return np.hypot(shift, spread)
