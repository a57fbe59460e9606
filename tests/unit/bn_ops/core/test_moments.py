"""Moments against float64 numpy on the whole data, for difficult shapes and values."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from bn_ops.core.moments import Moments, measure, merge, merge_all
from bn_ops.errors import OptionError

# The relative precision of float32 is 6e-8; sums of pieces add several roundings.
RELATIVE = 1e-6


def reference(x: NDArray[np.generic]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wide = x.astype(np.float64)
    axes = (0, *range(2, x.ndim))
    return wide.mean(axis=axes), wide.var(axis=axes)


def check(x: NDArray[np.generic], moments: Moments, *, rtol: float = RELATIVE) -> None:
    mean, var = reference(x)
    np.testing.assert_allclose(moments.var_population, var, rtol=rtol, atol=1e-30)
    assert (np.abs(moments.mean - mean) <= rtol * np.sqrt(var) + 1e-12 * np.abs(mean)).all()


@pytest.mark.parametrize(
    "shape",
    [
        (1, 3),  # one sample, one position
        (7, 5),
        (4, 3, 1),
        (3, 2, 31),  # short rows: converted to float64 first
        (3, 2, 33),  # the minimum length for float32 sums
        (2, 3, 8192),  # exactly one piece
        (2, 3, 8193),  # one piece and a tail of one
        (5, 16, 14, 14),
        (2, 3, 4, 5, 6),
        (2, 1, 300, 300),  # several pieces
    ],
)
@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0, 1000.0])
def test_moments_equal_float64_numpy(shape: tuple[int, ...], offset: float) -> None:
    rng = np.random.default_rng(len(shape))
    x = (rng.normal(0, 1, shape) + offset).astype(np.float32)
    check(x, measure(x))


def test_precision_with_large_mean() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(1000, 1, (1, 1, 3584, 3584)).astype(np.float32)
    check(x, measure(x))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_are_widened(dtype: type[np.generic]) -> None:
    x: NDArray[np.generic] = np.random.default_rng(1).normal(3, 1, (4, 3, 50, 50)).astype(dtype)
    check(x, measure(x))


def test_float16_squares_do_not_overflow() -> None:
    x = np.random.default_rng(1).normal(20_000, 5_000, (4, 3, 10, 10)).astype(np.float16)
    check(x, measure(x))


def test_invariance_under_memory_layout() -> None:
    x = np.random.default_rng(2).normal(5, 1, (4, 6, 20, 20)).astype(np.float32)
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    assert not channels_last.flags.c_contiguous
    one, two = measure(x), measure(channels_last)
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.sum_sq_dev, two.sum_sq_dev)


def test_constant_channel_has_zero_variance() -> None:
    x = np.full((3, 2, 40, 40), 0.1, dtype=np.float32)
    assert (measure(x).var_population < 1e-16).all()


def test_sample_sums_do_not_depend_on_batch() -> None:
    x = np.random.default_rng(3).normal(1, 2, (12, 5, 40, 40)).astype(np.float32)
    whole = measure(x)
    split = merge_all(measure(x[i : i + 1]) for i in range(12))
    np.testing.assert_allclose(split.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(split.sum_sq_dev, whole.sum_sq_dev, rtol=1e-13)


def test_variance_between_batches_is_included() -> None:
    # Ten batches of constant level 0..9 with unit noise: the pooled variance is about 8.25 + 1,
    # and the mean of the batch variances is 1.
    rng = np.random.default_rng(4)
    parts = [rng.normal(level, 1, (8, 2, 30, 30)).astype(np.float32) for level in range(10)]
    check(np.concatenate(parts), merge_all(map(measure, parts)))
    assert (merge_all(map(measure, parts)).var_population > 8).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_values_propagate(bad: float) -> None:
    x = np.zeros((2, 3, 40, 40), dtype=np.float32)
    x[1, 2, 0, 0] = bad
    moments = measure(x)
    finite = np.isfinite(moments.mean) & np.isfinite(moments.sum_sq_dev)
    assert finite.tolist() == [True, True, False]


def test_unbiased_variance_of_one_value() -> None:
    moments = measure(np.ones((1, 3), dtype=np.float32))
    with pytest.raises(OptionError, match="two values"):
        _ = moments.var_unbiased


def test_merging_different_channel_counts() -> None:
    with pytest.raises(OptionError, match="3 with 4 channels"):
        merge(measure(np.ones((2, 3))), measure(np.ones((2, 4))))


@pytest.mark.parametrize("shape", [(0, 3, 2), (4,)])
def test_empty_arrays_and_vectors(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="layout"):
        measure(np.zeros(shape))
