"""Standard errors against the spread over repeated draws."""

from __future__ import annotations

import numpy as np
import pytest

from bn_ops.core.moments import measure, merge_all
from bn_ops.diagnostics.build_report import confidence, standard_errors


def draw(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Return images with random level and contrast, so that positions are far from independent."""
    level = rng.normal(1.0, 0.8, (samples, 2, 1))
    contrast = rng.gamma(4.0, 0.25, (samples, 1, 1))
    return level + contrast * rng.normal(0, 1, (samples, 2, 64))


def test_errors_match_spread_of_draws() -> None:
    rng = np.random.default_rng(0)
    found = [measure(draw(rng, 60)) for _ in range(400)]
    errors = [standard_errors(m) for m in found]
    predicted_mean = np.mean([e.mean for e in errors if e is not None], axis=0)
    predicted_var = np.mean([e.var for e in errors if e is not None], axis=0)
    empirical_mean = np.std([m.mean for m in found], axis=0, ddof=1)
    empirical_var = np.std([m.var_population for m in found], axis=0, ddof=1)
    # 400 draws estimate a spread to within 1/√800 = 3.5 %; the bound is four times that.
    np.testing.assert_allclose(predicted_mean / empirical_mean, 1, atol=0.14)
    np.testing.assert_allclose(predicted_var / empirical_var, 1, atol=0.14)


def test_pixels_are_not_independent() -> None:
    x = draw(np.random.default_rng(1), 200)
    errors = standard_errors(measure(x))
    assert errors is not None
    naive = x.std(axis=(0, 2)) / np.sqrt(x.shape[0] * x.shape[2])
    assert (errors.mean > 3 * naive).all()


def test_errors_with_large_mean_and_splits() -> None:
    x = draw(np.random.default_rng(2), 50) + 1e4
    near, far = (
        standard_errors(measure(x - 1e4)),
        standard_errors(merge_all(map(measure, x[:, np.newaxis]))),
    )
    assert near is not None
    assert far is not None
    np.testing.assert_allclose(far.mean, near.mean, rtol=1e-6)
    np.testing.assert_allclose(far.var, near.var, rtol=1e-6)


def test_single_sample_has_no_error() -> None:
    assert standard_errors(measure(np.ones((1, 2, 5)))) is None
    assert confidence(measure(np.ones((1, 2, 5))), target=0.05, floor=1e-10) is None


def test_dead_channels_are_ignored() -> None:
    x = draw(np.random.default_rng(3), 40)
    x[:, 1] = 0.0
    alone = confidence(measure(x[:, :1]), target=0.05, floor=1e-10)
    both = confidence(measure(x), target=0.05, floor=1e-10)
    assert alone is not None
    assert both is not None
    assert both.mean_error == pytest.approx(alone.mean_error, rel=1e-12)
    assert both.samples_needed == alone.samples_needed
    assert confidence(measure(np.zeros((4, 2, 5))), target=0.05, floor=1e-10) is None


@pytest.mark.parametrize("target", [0.05, 0.1])
def test_recommended_samples_reach_target(target: float) -> None:
    rng = np.random.default_rng(4)
    few = confidence(measure(draw(rng, 100)), target=target, floor=1e-10)
    assert few is not None
    enough = confidence(measure(draw(rng, few.samples_needed)), target=target, floor=1e-10)
    assert enough is not None
    assert few.mean_error > target
    # The first estimate, from 100 samples, has an uncertainty of about ten percent.
    assert max(enough.mean_error, enough.scale_error) < 1.15 * target
