"""Distances and their jackknife against explicit float64 computations."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bn_ops.core.statistics import RunningStatistics
from bn_ops.input_check.sample_moments import (
    SampleMoments,
    channel_distances,
    concatenate,
    jackknife_distances,
    live_channels,
    measure_samples,
    median_distance,
    spread_ratio,
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
