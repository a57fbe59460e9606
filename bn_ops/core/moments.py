"""Moments of a layer's input, per channel: mergeable and exact to float64.

Each sample is reduced separately, and every sum is float64 (see `bn_ops.core.reduction`). So a
sample contributes the same numbers in any batch, and merging in the same order gives the same bits;
`bn_ops.core.moment_tree` fixes the order.

Source of the merge: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
Sample Variances" (1979), equations 2.1. Source of the sample-wise sums: the delta method for a
ratio of cluster totals (Cochran, "Sampling Techniques", 3rd ed., section 9A.1), a sample being the
cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.reduction import reduce_rows
from bn_ops.core.statistics import Float64Array
from bn_ops.errors import OptionError

__all__ = [
    "Moments",
    "SampleSums",
    "from_samples",
    "join",
    "measure",
    "merge",
    "merge_all",
    "per_sample",
]

# A layer's input has at least the axes (N, C).
_MIN_RANK = 2

_MIN_UNBIASED_COUNT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSums:
    """Sums over samples of each sample's first two moments around a fixed center.

    With c the center, a_i the mean over positions of (x - c) and e_i the mean of (x - c)², of
    sample i, the five sums give clustered standard errors of the pooled mean and variance.

    Attributes:
        center: c, shape (C,), float64.
        a, e, aa, ae, ee: Σa_i, Σe_i, Σa_i², Σa_i·e_i, Σe_i², each of shape (C,), float64.
    """

    center: Float64Array
    a: Float64Array
    e: Float64Array
    aa: Float64Array
    ae: Float64Array
    ee: Float64Array

    def recentered(self, center: Float64Array, samples: int) -> SampleSums:
        """Return the same sums around another center, computed algebraically without the data."""
        # With d = new - old: a' = a - d, e' = e - 2·d·a + d².
        d = center - self.center
        dd = d * d
        return SampleSums(
            center=center,
            a=self.a - samples * d,
            e=self.e - 2 * d * self.a + samples * dd,
            aa=self.aa - 2 * d * self.a + samples * dd,
            ae=self.ae - d * self.e - 2 * d * self.aa + 3 * dd * self.a - samples * d * dd,
            ee=self.ee
            - 4 * d * self.ae
            + 4 * dd * self.aa
            + 2 * dd * self.e
            - 4 * d * dd * self.a
            + samples * dd * dd,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Pooled moments of a layer's input over samples and positions.

    Attributes:
        samples: n, number of samples (first-axis entries).
        count: number of values per channel: samples times positions.
        mean: shape (C,), float64.
        sum_sq_dev: Σ(x - mean)², shape (C,), float64 (Welford's M2; divide to get a variance).
        sample_sums: sample-wise sums for standard errors.
    """

    samples: int
    count: int
    mean: Float64Array
    sum_sq_dev: Float64Array
    sample_sums: SampleSums

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.mean.shape[0])

    @property
    def var(self) -> Float64Array:
        """The variance that estimators read: the population variance."""
        return self.var_population

    @property
    def var_population(self) -> Float64Array:
        """sum_sq_dev / count, as in train-mode normalization (Ioffe & Szegedy, Alg. 1)."""
        return self.sum_sq_dev / self.count

    @property
    def var_unbiased(self) -> Float64Array:
        """sum_sq_dev / (count - 1), as in PyTorch buffers (Ioffe & Szegedy, Alg. 2).

        Raises:
            OptionError: one value per channel, which has no unbiased variance.
        """
        if self.count < _MIN_UNBIASED_COUNT:
            raise OptionError("an unbiased variance needs at least two values per channel")
        return self.sum_sq_dev / (self.count - 1)


def measure(x: NDArray[np.generic]) -> Moments:
    """Measure one batch of a layer's input.

    Args:
        x: floating array, layout (N, C, *spatial), N ≥ 1; any strides.

    Returns:
        Moments of the N samples. Non-finite values propagate to mean and sum_sq_dev; the caller,
        who knows the layer's name, checks for them.
    """
    if x.ndim < _MIN_RANK or x.shape[0] == 0:
        raise OptionError(f"moments need the layout (N, C, *spatial) with N ≥ 1, got {x.shape}")
    mean, sq_dev = per_sample(x)
    positions = int(np.prod(x.shape[2:], dtype=np.int64))
    with np.errstate(over="ignore", invalid="ignore"):
        return from_samples(mean, sq_dev, positions)


def from_samples(mean: Float64Array, sq_dev: Float64Array, positions: int) -> Moments:
    """Pool per-sample moments of one batch.

    Args:
        mean: (N, C), float64, each sample's mean over positions.
        sq_dev: (N, C), float64, each sample's Σ(x - its mean)² over positions.
        positions: values per sample and channel.
    """
    # Called for each batch and layer, so without the wrappers of `mean` and `sum`.
    samples = mean.shape[0]
    pooled = np.add.reduce(mean, 0) / samples
    a = mean - pooled
    e = sq_dev / positions + a * a
    sum_e = np.add.reduce(e, 0)
    return Moments(
        samples=samples,
        count=samples * positions,
        mean=pooled,
        sum_sq_dev=positions * sum_e,
        sample_sums=SampleSums(
            center=pooled,
            a=np.add.reduce(a, 0),
            e=sum_e,
            aa=np.einsum("nc,nc->c", a, a),
            ae=np.einsum("nc,nc->c", a, e),
            ee=np.einsum("nc,nc->c", e, e),
        ),
    )


def per_sample(
    x: NDArray[np.generic], *, workers: int | None = None, openmp: bool = False
) -> tuple[Float64Array, Float64Array]:
    """Reduce each (sample, channel) row separately.

    Args:
        x: (N, C, *spatial), any floating dtype. float16 and bfloat16 are widened before any sum.
        workers: as `reduce_rows`.
        openmp: as `reduce_rows`.

    Returns:
        (mean, sq_dev): two (N, C) float64 arrays; sq_dev is Σ(x - mean)² of the row.
    """
    samples, channels = x.shape[:2]
    mean, sq_dev = reduce_rows(x.reshape(samples * channels, -1), workers=workers, openmp=openmp)
    return mean.reshape(samples, channels), sq_dev.reshape(samples, channels)


def merge(left: Moments, right: Moments) -> Moments:
    """Merge the moments of two disjoint sets of samples (Chan, Golub, LeVeque 1979, eq. 2.1).

    Associative and commutative up to float64 rounding; merging in the same order gives the same
    bits.
    """
    if left.channels != right.channels:
        raise OptionError(f"cannot merge {left.channels} with {right.channels} channels")
    count = left.count + right.count
    delta = right.mean - left.mean
    moved = right.sample_sums.recentered(left.sample_sums.center, right.samples)
    kept = left.sample_sums
    return Moments(
        samples=left.samples + right.samples,
        count=count,
        mean=left.mean + delta * (right.count / count),
        sum_sq_dev=left.sum_sq_dev
        + right.sum_sq_dev
        + delta * delta * (left.count * right.count / count),
        sample_sums=SampleSums(
            center=kept.center,
            a=kept.a + moved.a,
            e=kept.e + moved.e,
            aa=kept.aa + moved.aa,
            ae=kept.ae + moved.ae,
            ee=kept.ee + moved.ee,
        ),
    )


def merge_all(parts: Iterable[Moments]) -> Moments:
    """Merge at least one part, in the order given."""
    return reduce(merge, parts)


def join(parts: Sequence[Moments]) -> Moments:
    """Join the moments of tensors that are concatenated along the channel axis.

    Raises:
        OptionError: the parts are not of the same samples and positions.
    """
    if len(parts) == 1:
        return parts[0]
    if len({(part.samples, part.count) for part in parts}) != 1:
        raise OptionError("only moments of the same samples and positions can be joined")

    def joined(values: Iterable[Float64Array]) -> Float64Array:
        return np.concatenate(list(values))

    sums = [part.sample_sums for part in parts]
    return Moments(
        samples=parts[0].samples,
        count=parts[0].count,
        mean=joined(part.mean for part in parts),
        sum_sq_dev=joined(part.sum_sq_dev for part in parts),
        sample_sums=SampleSums(
            center=joined(e.center for e in sums),
            a=joined(e.a for e in sums),
            e=joined(e.e for e in sums),
            aa=joined(e.aa for e in sums),
            ae=joined(e.ae for e in sums),
            ee=joined(e.ee for e in sums),
        ),
    )
