"""Each estimator against its formula, written out in plain numpy."""

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


def test_replace_takes_the_population_variance_of_the_target_alone() -> None:
    new = Replace()(SOURCE, TARGET)
    np.testing.assert_allclose(new.mean, MEAN, rtol=1e-12)
    np.testing.assert_allclose(new.var, VAR, rtol=1e-12)


def test_prior_counts_samples_and_not_positions() -> None:
    new = Prior(6)(SOURCE, TARGET)  # 6 pseudo-samples against 3 samples: λ = 2/3
    np.testing.assert_allclose(new.mean, 2 / 3 * SOURCE.mean + MEAN / 3, rtol=1e-12)
    np.testing.assert_allclose(new.var, 2 / 3 * SOURCE.var + VAR / 3, rtol=1e-12)


def test_prior_with_mixture_has_the_variance_of_the_pooled_populations() -> None:
    # Two populations of 6 and 3 parts with the given moments, pooled: the law of total variance.
    new = Prior(6, mixture=True)(SOURCE, TARGET)
    pooled = 2 / 3 * SOURCE.mean + MEAN / 3
    second = 2 / 3 * (SOURCE.var + SOURCE.mean**2) + (VAR + MEAN**2) / 3
    np.testing.assert_allclose(new.var, second - pooled**2, rtol=1e-12)


def test_a_prior_of_no_samples_is_replace() -> None:
    none, replaced = Prior(0)(SOURCE, TARGET), Replace()(SOURCE, TARGET)
    np.testing.assert_array_equal(none.mean, replaced.mean)
    np.testing.assert_array_equal(none.var, replaced.var)


def test_momentum_keeps_its_share_of_the_source() -> None:
    new = Momentum(0.1)(SOURCE, TARGET)
    np.testing.assert_allclose(new.mean, 0.9 * SOURCE.mean + 0.1 * MEAN, rtol=1e-12)
    np.testing.assert_allclose(new.var, 0.9 * SOURCE.var + 0.1 * VAR, rtol=1e-12)


@pytest.mark.parametrize(
    "estimator", [Replace(), Prior(16), Prior(2.5, mixture=True), Momentum(0.25)]
)
def test_the_json_form_brings_the_same_estimator_back(estimator: Estimator) -> None:
    assert estimator_from_json(estimator.to_json()) == estimator


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({}, "unknown estimator None"),
        ({"name": "magic"}, "'magic'"),
        ({"name": "prior"}, "'prior' does not take"),
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
def test_wrong_forms_are_refused_with_what_is_wrong(form: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        estimator_from_json(form)


def test_a_channel_that_died_in_the_target_keeps_its_variance_and_takes_the_mean() -> None:
    estimated = RunningStatistics(mean=np.array([3.0, 3.0, 3.0]), var=np.array([0.0, 1e-11, 2.0]))
    source = RunningStatistics(mean=np.zeros(3), var=np.array([0.7, 0.0, 1.0]))
    guarded = guard(source, estimated, eps=1e-5)
    assert guarded.statistics.var.tolist() == [0.7, 0.0, 2.0]
    assert guarded.statistics.mean.tolist() == [3.0, 3.0, 3.0]
    assert (guarded.silenced, guarded.dead) == ((0,), (1,))
    assert guarded.amplification == 1.0  # nothing amplified: the guard held


def test_rounding_noise_around_a_large_mean_counts_as_no_variance() -> None:
    # A float32 channel that is constant at 1e4 up to its last bit (about 1e-3) has a variance of
    # 1e-7 or so, above any absolute floor; taking it would amplify by a factor of a thousand.
    estimated = RunningStatistics(mean=np.array([1e4]), var=np.array([1e-6]))
    guarded = guard(
        RunningStatistics(mean=np.array([1e4]), var=np.array([1.0])), estimated, eps=1e-5
    )
    assert guarded.silenced == (0,)
    assert guarded.statistics.var.tolist() == [1.0]


def test_a_small_but_real_variance_is_taken() -> None:
    estimated = RunningStatistics(mean=np.array([0.0]), var=np.array([1e-8]))
    guarded = guard(RunningStatistics(mean=np.zeros(1), var=np.ones(1)), estimated, eps=1e-5)
    assert guarded.statistics.var.tolist() == [1e-8]
    assert guarded.amplification == pytest.approx(np.sqrt((1 + 1e-5) / (1e-8 + 1e-5)), rel=1e-12)
