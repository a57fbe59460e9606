"""Distances and their jackknife against explicit float64 computations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]  # no stubs are installed

from bn_ops.core.statistics import RunningStatistics
from bn_ops.input_check.sample_moments import (
    SampleMoments,
    channel_distances,
    concatenate,
    is_closer,
    jackknife_distances,
    live_channels,
    measure_samples,
    median_distance,
    spread_ratio,
    student_quantile,
)

RNG = np.random.default_rng(0)
CHANNELS = 5
SOURCE = RunningStatistics(
    mean=RNG.normal(100, 1, CHANNELS), var=np.array([1.0, 4.0, 0.25, 2.0, 0.0])
)


def data(samples: int = 9) -> NDArray[np.float32]:
    return RNG.normal(101, 1.5, (samples, CHANNELS, 6, 7)).astype(np.float32)


def moments(x: NDArray[np.float32]) -> SampleMoments:
    mean, var = measure_samples(x)
    return SampleMoments(layers=("bn",), source=SOURCE, mean=mean, var=var)


def expected(x: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = x.astype(np.float64)
    mean, deviation = wide.mean((0, 2, 3)), wide.std((0, 2, 3))
    sigma = np.sqrt(SOURCE.var)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.sqrt(((mean - SOURCE.mean) / sigma) ** 2 + (deviation / sigma - 1) ** 2)
    return np.asarray(found[SOURCE.var > 0])


def test_distance_over_all_values() -> None:
    x = data()
    np.testing.assert_allclose(channel_distances(moments(x)), expected(x), rtol=1e-6)
    assert median_distance(moments(x)) == pytest.approx(float(np.median(expected(x))), rel=1e-6)


def test_invariance_under_batches() -> None:
    x = data()
    joined = concatenate([moments(x[:2]), moments(x[2:])])
    np.testing.assert_array_equal(channel_distances(joined), channel_distances(moments(x)))


def test_jackknife() -> None:
    x = data(6)
    found = jackknife_distances(moments(x))
    explicit = [np.median(expected(np.delete(x, i, axis=0))) for i in range(len(x))]
    np.testing.assert_allclose(found, explicit, rtol=1e-6)


def test_dead_channels_are_ignored() -> None:
    assert live_channels(SOURCE).tolist() == [True, True, True, True, False]
    near_dead = RunningStatistics(mean=np.zeros(2), var=np.array([1.0, 1e-7]))
    assert live_channels(near_dead).tolist() == [True, False]


def test_spread_relative_to_stored_deviation() -> None:
    x = data()
    ratio = x.astype(np.float64).std((0, 2, 3))[:4] / np.sqrt(SOURCE.var[:4])
    assert spread_ratio(moments(x)) == pytest.approx(float(np.median(ratio)), rel=1e-6)


def test_no_distance_without_live_channels() -> None:
    dead = RunningStatistics(mean=np.zeros(2), var=np.zeros(2))
    mean = np.zeros((3, 2))
    found = SampleMoments(layers=("bn",), source=dead, mean=mean, var=mean)
    assert np.isnan(median_distance(found))


def test_jackknife_over_groups() -> None:
    x = data(9)
    groups = np.array([2, 0, 0, 1, 2, 3, 0, 1, 0])
    exact = [float(np.median(expected(x[groups != group]))) for group in range(4)]
    np.testing.assert_allclose(jackknife_distances(moments(x), groups), exact, rtol=1e-6)


@pytest.mark.parametrize("freedom", [7, 8, 11, 15, 23, 63, 1000])
def test_quantile_of_student(freedom: int) -> None:
    exact = float(stats.t.isf(stats.norm.sf(3), freedom))
    assert student_quantile(freedom) == pytest.approx(exact, abs=0.02)


def pairs(count: int, size: int, *, gain: float) -> Iterator[tuple[SampleMoments, SampleMoments]]:
    """Yield moments in groups whose samples have the same deviation, under two preprocessings."""
    source = RunningStatistics(mean=np.zeros(24), var=np.ones(24))
    for seed in range(400):
        rng = np.random.default_rng([seed, count])
        shared = rng.normal(0, 0.3, (2, count, 1)).repeat(size, axis=1)
        means = 1 + shared + rng.normal(0, 0.1, (2, count * size, 24))
        means[0] -= gain
        yield (
            SampleMoments(
                layers=("bn",), source=source, mean=means[0], var=np.ones(means[0].shape)
            ),
            SampleMoments(
                layers=("bn",), source=source, mean=means[1], var=np.ones(means[1].shape)
            ),
        )


@pytest.mark.parametrize("count", [8, 12, 24])
def test_dependent_samples_are_significant_only_by_their_groups(count: int) -> None:
    groups = np.repeat(np.arange(count), 6)
    null = list(pairs(count, 6, gain=0))
    assert np.mean([is_closer(*pair, groups) for pair in null]) <= 0.01
    # As independent samples, the same ones are wrongly significant ten times as often.
    assert np.mean([is_closer(*pair) for pair in null]) >= 0.08
    assert np.mean([is_closer(*pair, groups) for pair in pairs(count, 6, gain=0.9)]) >= 0.9


def test_few_groups_are_never_significant() -> None:
    near, far = next(pairs(8, 6, gain=0.9))
    assert is_closer(near, far, np.repeat(np.arange(8), 6))
    assert not is_closer(near, far, np.repeat(np.arange(8), 6) % 7)
