"""Each estimator against its formula in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from bn_ops.core.estimators import Estimator, Momentum, Prior, Replace, estimator_from_json, guard
from bn_ops.core.moments import measure
from bn_ops.core.statistics import RunningStatistics
from bn_ops.errors import OptionError

SOURCE = RunningStatistics(mean=np.array([0.0, 2.0, -1.0]), var=np.array([1.0, 4.0, 0.25]))
DATA = np.random.default_rng(0).normal([[[1.0]], [[0.0]], [[5.0]]], 1.5, (3, 3, 7)).swapaxes(0, 1)
TARGET = measure(DATA)
MEAN, VAR = DATA.mean(axis=(0, 2)), DATA.var(axis=(0, 2))


def test_replace_uses_target_population_variance() -> None:
    new = Replace()(SOURCE, TARGET)
    np.testing.assert_allclose(new.mean, MEAN, rtol=1e-12)
    np.testing.assert_allclose(new.var, VAR, rtol=1e-12)


def test_prior_counts_samples() -> None:
    new = Prior(6)(SOURCE, TARGET)  # 6 pseudo-samples against 3 samples: λ = 2/3
    np.testing.assert_allclose(new.mean, 2 / 3 * SOURCE.mean + MEAN / 3, rtol=1e-12)
    np.testing.assert_allclose(new.var, 2 / 3 * SOURCE.var + VAR / 3, rtol=1e-12)


def test_prior_mixture_variance() -> None:
    # Pooled populations of 6 and 3 samples with the given moments: the law of total variance.
    new = Prior(6, mixture=True)(SOURCE, TARGET)
    pooled = 2 / 3 * SOURCE.mean + MEAN / 3
    second = 2 / 3 * (SOURCE.var + SOURCE.mean**2) + (VAR + MEAN**2) / 3
    np.testing.assert_allclose(new.var, second - pooled**2, rtol=1e-12)


def test_prior_of_zero_samples_equals_replace() -> None:
    none, replaced = Prior(0)(SOURCE, TARGET), Replace()(SOURCE, TARGET)
    np.testing.assert_array_equal(none.mean, replaced.mean)
    np.testing.assert_array_equal(none.var, replaced.var)


def test_momentum_weights_the_source() -> None:
    new = Momentum(0.1)(SOURCE, TARGET)
    np.testing.assert_allclose(new.mean, 0.9 * SOURCE.mean + 0.1 * MEAN, rtol=1e-12)
    np.testing.assert_allclose(new.var, 0.9 * SOURCE.var + 0.1 * VAR, rtol=1e-12)


@pytest.mark.parametrize(
    "estimator", [Replace(), Prior(16), Prior(2.5, mixture=True), Momentum(0.25)]
)
def test_json_round_trip(estimator: Estimator) -> None:
    assert estimator_from_json(estimator.to_json()) == estimator


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({}, "unknown estimator None"),
        ({"name": "magic"}, "'magic'"),
        ({"name": "prior"}, "'prior' requires an option"),
        ({"name": "prior", "samples": -1}, "≥ 0"),
        ({"name": "prior", "samples": float("nan")}, "≥ 0"),
        ({"name": "prior", "samples": float("inf")}, "≥ 0"),
        ({"name": "prior", "samples": 10**400}, "≥ 0"),
        ({"name": "prior", "samples": "16"}, "numbers"),
        ({"name": "prior", "samples": True}, "samples"),
        ({"name": "momentum", "momentum": 0}, r"\(0, 1\]"),
        ({"name": "replace", "samples": 3}, "'replace' does not take"),
    ],
)
def test_invalid_json_forms(form: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        estimator_from_json(form)


def test_dead_channel_keeps_variance_and_takes_mean() -> None:
    estimated = RunningStatistics(mean=np.array([3.0, 3.0, 3.0]), var=np.array([0.0, 1e-11, 2.0]))
    source = RunningStatistics(mean=np.zeros(3), var=np.array([0.7, 0.0, 1.0]))
    guarded = guard(source, estimated, eps=1e-5)
    assert guarded.statistics.var.tolist() == [0.7, 0.0, 2.0]
    assert guarded.statistics.mean.tolist() == [3.0, 3.0, 3.0]
    assert (guarded.silenced, guarded.dead) == ((0,), (1,))
    assert guarded.amplification == 1.0  # the guard prevented any amplification


def test_rounding_noise_counts_as_zero_variance() -> None:
    # A float32 channel that is constant at 1e4 up to its last bit (about 1e-3) has a variance of
    # about 1e-7, above any absolute floor; using it would amplify by a factor of a thousand.
    estimated = RunningStatistics(mean=np.array([1e4]), var=np.array([1e-6]))
    guarded = guard(
        RunningStatistics(mean=np.array([1e4]), var=np.array([1.0])), estimated, eps=1e-5
    )
    assert guarded.silenced == (0,)
    assert guarded.statistics.var.tolist() == [1.0]


def test_small_real_variance_is_used() -> None:
    estimated = RunningStatistics(mean=np.array([0.0]), var=np.array([1e-8]))
    guarded = guard(RunningStatistics(mean=np.zeros(1), var=np.ones(1)), estimated, eps=1e-5)
    assert guarded.statistics.var.tolist() == [1e-8]
    assert guarded.amplification == pytest.approx(np.sqrt((1 + 1e-5) / (1e-8 + 1e-5)), rel=1e-12)
