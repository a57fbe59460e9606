"""The laws of estimators: equivariance, limits, determinism, blindness to the cut."""

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
    """A source and a stream (N, C, P) that lies anywhere from on it to far away."""
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
    """The moments of the same samples, each seen `times` times."""
    sums = moments.evidence
    return replace(
        moments,
        samples=times * moments.samples,
        count=times * moments.count,
        sum_sq_dev=times * moments.sum_sq_dev,
        evidence=replace(
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
def test_units_do_not_matter(estimator: Estimator, case: Case) -> None:
    # y = -3·x + 7 on both sides must give the same answer in the new unit.
    source, x = case
    scaled = RunningStatistics(mean=-3 * source.mean + 7, var=9 * source.var)
    new, other = estimator(source, measure(x)), estimator(scaled, measure(-3 * x + 7))
    expected = RunningStatistics(mean=-3 * new.mean + 7, var=9 * new.var)
    close(other, expected, rtol=1e-8)


@given(cases())
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_the_same_moments_give_the_same_bits(estimator: Estimator, case: Case) -> None:
    source, x = case
    first, second = estimator(source, measure(x)), estimator(source, measure(x.copy()))
    assert first.mean.tobytes() == second.mean.tobytes()
    assert first.var.tobytes() == second.var.tobytes()


@given(cases())
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_the_cut_of_the_stream_does_not_matter(estimator: Estimator, case: Case) -> None:
    source, x = case
    one_by_one = merge_all(measure(sample) for sample in x[:, np.newaxis])
    close(estimator(source, one_by_one), estimator(source, measure(x)), rtol=1e-7)


@given(cases())
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_means_lie_between_source_and_target(estimator: Estimator, case: Case) -> None:
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
def test_more_of_the_same_evidence_never_moves_back(estimator: Estimator, case: Case) -> None:
    source, x = case
    # One channel: among several, more evidence may show that some moved and others did not.
    source = RunningStatistics(mean=source.mean[:1], var=source.var[:1])
    moments = measure(x[:, :1])
    way = np.abs(moments.mean - source.mean) + 1e-300
    gone = [
        np.abs(estimator(source, repeated(moments, times)).mean - source.mean) / way
        for times in (1, 4, 16, 256)
    ]
    for less, more in pairwise(gone):
        # Shrink learns from the same evidence how far anything moves: where that is hardly at all,
        # it may take back some of a step. A search over 3,000 cases found 4.6 % at most.
        assert (more >= less - 0.1).all()


@given(cases())
@pytest.mark.parametrize("estimator", [Prior(16), Prior(16, mixture=True), Shrink()], ids=str)
def test_endless_evidence_is_replace(estimator: Estimator, case: Case) -> None:
    source, x = case
    moments = repeated(measure(x), 10**12)
    new, target = estimator(source, moments), Replace()(source, moments)
    # Shrink's standard error is then a millionth of σ, and what it may keep of the source is less.
    assert (np.abs(new.mean - target.mean) <= 2e-5 * np.sqrt(source.var + target.var)).all()
    shift = target.mean - source.mean
    bound = 1e-4 * target.var + 1e-9 * (source.var + shift**2)
    assert (np.abs(new.var - target.var) <= bound).all()
