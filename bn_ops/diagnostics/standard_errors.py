"""Standard errors of the moments, clustered by sample, and the number of samples that suffices.

The unit of replication is the sample, never the pixel: positions of one sample are dependent, and a
standard error that counts them as independent is an order of magnitude too small in the first
layers of a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bn_ops.core.moments import Moments
from bn_ops.core.statistics import Float64Array
from bn_ops.diagnostics.report import Confidence

__all__ = ["StandardErrors", "confidence", "standard_errors"]

# Two-sided 95 % of the normal distribution.
_Z = 1.959963984540054

# A layer has converged when this share of its live channels has.
_CHANNEL_SHARE = 0.99

_MIN_SAMPLES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StandardErrors:
    """Standard errors of one layer's pooled mean and variance, each of shape (C,), float64."""

    mean: Float64Array
    var: Float64Array


def standard_errors(moments: Moments) -> StandardErrors | None:
    """Return the standard errors of pooled mean and population variance; None below two samples.

    With a_i = mean over positions of (x - μ) and e_i = mean of (x - μ)² of sample i:
    SE(μ)² = var_i(a)/n and SE(σ²)² = var_i(e - 2·ā·a)/n, where ā = 0 because μ is the pooled mean.
    The variances over samples use n - 1.

    Source: Cochran 1977, "Sampling Techniques", section 9A.1 (equal clusters); the delta method for
        the variance.
    """
    n = moments.samples
    if n < _MIN_SAMPLES:
        return None
    sums = moments.sample_sums.recentered(moments.mean, n)
    mean_a, mean_e = sums.a / n, sums.e / n
    var_a = np.maximum(sums.aa - n * mean_a**2, 0) / (n - 1)
    var_e = np.maximum(sums.ee - n * mean_e**2, 0) / (n - 1)
    return StandardErrors(mean=np.sqrt(var_a / n), var=np.sqrt(var_e / n))


def confidence(moments: Moments, *, target: float, floor: float) -> Confidence | None:
    """Return how precisely one layer's statistics are known.

    Args:
        moments: the layer's measured moments.
        target: error that counts as converged, in units of the channel's σ.
        floor: variance at or below which a channel is dead and left out.

    Returns:
        None below two samples, or when no channel is live.
    """
    errors = standard_errors(moments)
    live = moments.var_population > floor
    if errors is None or not live.any():
        return None
    var = moments.var_population[live]
    mean_error = _Z * errors.mean[live] / np.sqrt(var)
    scale_error = _Z * errors.var[live] / (2 * var)
    at_mean = float(np.quantile(mean_error, _CHANNEL_SHARE))
    at_scale = float(np.quantile(scale_error, _CHANNEL_SHARE))
    return Confidence(
        mean_error=at_mean,
        scale_error=at_scale,
        samples_needed=_samples_needed(max(at_mean, at_scale), moments.samples, target),
    )


def _samples_needed(error: float, samples: int, target: float) -> int:
    """Return the least n with error·√(samples/n) + 1/n ≤ target: standard errors fall as 1/√n."""
    # With s = 1/√n: s² + error·√samples·s - target = 0.
    b = error * math.sqrt(samples)
    s = (-b + math.sqrt(b * b + 4 * target)) / 2
    return math.ceil(1 / (s * s) - 1e-9)
