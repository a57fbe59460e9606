"""Laws of estimators: equivariance, limits, determinism, invariance under splits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.core.estimators import Estimator, Momentum, Prior, Replace, Shrink
from bn_ops.core.moments import Moments, measure, merge_all
from bn_ops.core.statistics import RunningStatistics

ESTIMATORS: tuple[Estimator, ...] = (
    Replace(),
    Prior(16),
    Prior(16, mixture=True),
    Momentum(0.1),
    Shrink(),
)

Case = tuple[RunningStatistics, np.ndarray]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw source statistics and a stream (N, C, P) at a random distance from them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    samples, channels = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    positions = draw(st.sampled_from([2, 5, 36]))
    shift, scale = draw(st.sampled_from([0.0, 0.3, 5.0])), draw(st.sampled_from([1.0, 0.2, 4.0]))
    source = RunningStatistics(
        mean=rng.normal(0, 1, channels), var=rng.gamma(2, 0.5, channels) + 1e-3
    )
    own = rng.normal(0, 0.3, (samples, channels, 1))
    noise = own + rng.normal(0, 1, (samples, channels, positions))
    sigma = np.sqrt(source.var)[:, None]
    return source, source.mean[:, None] + sigma * (shift + scale * noise)


def close(left: RunningStatistics, right: RunningStatistics, rtol: float) -> None:
    scale = np.sqrt(right.var)
    assert (np.abs(left.mean - right.mean) <= rtol * (scale + np.abs(right.mean))).all()
    np.testing.assert_allclose(left.var, right.var, rtol=rtol)


def repeated(moments: Moments, times: int) -> Moments:
    """Return the moments of the same samples, each repeated `times` times."""
    sums = moments.sample_sums
    return replace(
        moments,
        samples=times * moments.samples,
        count=times * moments.count,
        sum_sq_dev=times * moments.sum_sq_dev,
        sample_sums=replace(
            sums,
            a=times * sums.a,
            e=times * sums.e,
            aa=times * sums.aa,
            ae=times * sums.ae,
            ee=times * sums.ee,
        ),
    )


@given(cases())
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_affine_equivariance(estimator: Estimator, case: Case) -> None:
    # y = -3·x + 7 applied to source and stream must transform the result in the same way.
    source, x = case
    scaled = RunningStatistics(mean=-3 * source.mean + 7, var=9 * source.var)
    new, other = estimator(source, measure(x)), estimator(scaled, measure(-3 * x + 7))
    expected = RunningStatistics(mean=-3 * new.mean + 7, var=9 * new.var)
    close(other, expected, rtol=1e-8)


@given(cases())
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_determinism(estimator: Estimator, case: Case) -> None:
    source, x = case
    first, second = estimator(source, measure(x)), estimator(source, measure(x.copy()))
    assert first.mean.tobytes() == second.mean.tobytes()
    assert first.var.tobytes() == second.var.tobytes()


@given(cases())
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_invariance_under_splits(estimator: Estimator, case: Case) -> None:
    source, x = case
    one_by_one = merge_all(measure(sample) for sample in x[:, np.newaxis])
    close(estimator(source, one_by_one), estimator(source, measure(x)), rtol=1e-7)


@given(cases())
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_mean_between_source_and_target(estimator: Estimator, case: Case) -> None:
    source, x = case
    moments = measure(x)
    new = estimator(source, moments)
    low = np.minimum(source.mean, moments.mean)
    high = np.maximum(source.mean, moments.mean)
    assert (new.mean >= low - 1e-12).all()
    assert (new.mean <= high + 1e-12).all()
    assert (new.var > 0).all()


@given(cases())
@pytest.mark.parametrize("estimator", [Prior(16), Shrink()], ids=str)
def test_more_evidence_moves_closer_to_target(estimator: Estimator, case: Case) -> None:
    source, x = case
    # One channel: with several, more evidence may show that only some of them moved.
    source = RunningStatistics(mean=source.mean[:1], var=source.var[:1])
    moments = measure(x[:, :1])
    distance = np.abs(moments.mean - source.mean) + 1e-300
    moved = [
        np.abs(estimator(source, repeated(moments, times)).mean - source.mean) / distance
        for times in (1, 4, 16, 256)
    ]
    for less, more in pairwise(moved):
        # Shrink estimates the typical shift from the same evidence. If the shift is tiny, the step
        # may decrease slightly: by at most 4.6 % in a search over 3,000 cases.
        assert (more >= less - 0.1).all()


@given(cases())
@pytest.mark.parametrize("estimator", [Prior(16), Prior(16, mixture=True), Shrink()], ids=str)
def test_infinite_evidence_equals_replace(estimator: Estimator, case: Case) -> None:
    source, x = case
    moments = repeated(measure(x), 10**12)
    new, target = estimator(source, moments), Replace()(source, moments)
    # The standard error in Shrink is then 1e-6 σ; the remaining weight of the source is smaller.
    assert (np.abs(new.mean - target.mean) <= 2e-5 * np.sqrt(source.var + target.var)).all()
    shift = target.mean - source.mean
    bound = 1e-4 * target.var + 1e-9 * (source.var + shift**2)
    assert (np.abs(new.var - target.var) <= bound).all()
