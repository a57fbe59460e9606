"""Shrink: move as far from the source as the evidence carries, without a knob.

Every layer has two candidates: the source's statistics, right if nothing moved, and the target's,
right if n samples were enough. Shrink estimates by empirical Bayes how far each channel really
moved, and goes that far.

**Model.** Per channel, in the source's unit, with v̂ the target variance freed of its bias:

    z = (μt - μs)/σs  ~ N(δ, e²)        l = ln(v̂/σs²)  ~ N(λ, f²)

e² and f² are squared clustered standard errors: the sample is the unit of replication, never the
pixel. A true shift of variance r·e² (or r·f²) makes t² = z²/e² a (1 + r)·χ² variable with one
degree of freedom, and its posterior mean is w·z with w = r/(1 + r): the positive-part James-Stein
weight 1 - 1/t² where r is estimated by t² - 1.

**Per layer or per channel, by evidence.** r is not one number chosen in advance. It has a prior
π over a grid, 0 included, and π is estimated from all channels of the layer at once (EM, from the
flat prior, which is kept as one channel's worth of votes). If all channels moved alike, π gathers
at one r and all get one weight; if a few moved, only they do; if none did, π gathers at 0. A
channel's w is the posterior mean of r/(1 + r). The same is done for ln v, with its own π.

**A channel moves as one.** Mean and variance take the larger of their two weights. A layer whose
scale has moved is not in the source's domain any more, and the source's mean is then no evidence
about it, however close the two means are by chance.

**Small n.** The variance between samples has n - 1 degrees of freedom: none at n = 1. It is
moderated (Smyth 2004) by a prior of 4 degrees of freedom: the posterior mean of e² is finite at
n = 1 from 3 on, and with 4 it is twice the prior's centre there, not three times (2, 3 and 4 were
tried on the development data of benchmarks/accuracy). The centre is a design effect: of a channel's
variance the share ρ lies between samples, where ρ is between 1/P (P positions of a sample,
independent) and 1 (all alike); the centre of that range on a log scale is ρ = 1/√P. One sample is
then worth 1/ρ independent values, so that the variance of its mean square is 2ρσ⁴. The σ² in it is
the channel's own, drawn to the layer's median where few values carry it. So n = 1 has an error, a
large one, and it takes a large shift to leave the source. With few values v̂ is far from normal; it
is taken as a gamma variable with the relative variance that was found, so that the mean and
variance of ln v̂ are those of a log-gamma variable (ψ and ψ').

**Bias.** The population variance of n samples lacks the variance of their own mean:
v̂ = v + SE²(μ). And since the new mean is itself uncertain, what the layer will see around it is
wider by the posterior variance w·SE²(μ), which is added (the law of total variance; the same term
as the `mixture` option of `Prior`). Both vanish as 1/n.

As n grows e² and f² fall, w goes to 1 for every channel that moved at all, and Shrink becomes
`Replace`. It is deterministic: a fixed number of EM steps from a fixed start. Nothing is tuned on
a benchmark's held-out part; docs/estimators.md has the figures.

Sources: Efron & Morris 1973, "Stein's Estimation Rule and Its Competitors", section 2 (empirical
Bayes form of the James-Stein weight); Stephens 2017, "False discovery rates: a new deal", section 2
(scale mixture with a null, estimated by EM); Smyth 2004, "Linear models and empirical Bayes methods
for assessing differential expression in microarray experiments", section 4 (moderated variance);
Kish 1965, "Survey Sampling", section 5.4 (design effect of clusters).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.moments import Moments
from bn_ops.core.statistics import Float64Array, RunningStatistics

__all__ = ["Shrink"]

# Degrees of freedom of the prior for variances between samples; see "Small n" above.
_PRIOR_FREEDOM = 4

# r, the variance of the true shifts in units of the error: nothing, and 1/4 to 4^15 in steps of 4.
# A finer grid cannot be told apart by one t² a channel; at its end w is 1 to nine digits.
_GRID: Float64Array = np.concatenate([[0.0], 4.0 ** np.arange(-1, 16)])
_WEIGHTS: Float64Array = _GRID / (1 + _GRID)

# EM converges slowly near the null, where it no longer matters: the weights of the 100th step
# differ from the limit's by less than 0.01.
_STEPS = 100

# t² of a channel whose error vanishes: as certain as it gets, and still a number.
_CERTAIN = 1e12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Errors:
    """Squared standard errors of a layer, each (C,): of the mean and of the log variance."""

    mean: Float64Array
    log_var: Float64Array
    var: Float64Array  # v̂, the variance freed of its bias
    log_bias: Float64Array  # E ln v̂ - ln E v̂, below zero
    spread: Float64Array  # SE²(μ) in the channel's own unit


@dataclass(frozen=True, slots=True)
class Shrink:
    """Weigh source and target by evidence, per channel; see the module for the derivation.

    new mean = μs + w·(μt - μs), new var = σs²·(v̂/σs²)^w + w·SE²(μ), with w in [0, 1).

    Channels without variance in the source have no unit to measure a shift in, and channels without
    variance in the target no scale: both take the target's statistics, as `Replace` does, and the
    guards decide about them.
    """

    def __call__(self, source: RunningStatistics, moments: Moments) -> RunningStatistics:
        """Return the shrunken statistics."""
        errors = _errors(source, moments)
        live = (source.var > 0) & (errors.var > 0)
        mean, var = moments.mean.copy(), moments.var_population.copy()
        if not live.any():
            return RunningStatistics(mean=mean, var=var)
        source_var = source.var[live]
        shift = moments.mean[live] - source.mean[live]
        log_ratio = np.log(errors.var[live] / source_var) - errors.log_bias[live]
        weight = np.maximum(
            shift_weights(_ratio(shift**2, errors.mean[live])),
            shift_weights(_ratio(log_ratio**2, errors.log_var[live])),
        )
        mean[live] = source.mean[live] + weight * shift
        var[live] = source_var * np.exp(weight * log_ratio) + weight * errors.spread[live]
        return RunningStatistics(mean=mean, var=var)

    def to_json(self) -> Mapping[str, str | int | float | bool]:
        """Return the JSON form."""
        return {"name": "shrink"}


def _errors(source: RunningStatistics, moments: Moments) -> _Errors:
    """Moderated clustered standard errors; see "Small n" and "Bias" above."""
    n = moments.samples
    share = (moments.count / n) ** -0.5  # ρ = 1/√P
    sums = moments.evidence.recentered(moments.mean, n)
    between_mean = np.maximum(sums.aa, 0)
    between_square = np.maximum(sums.ee - sums.e**2 / n, 0)
    # A single value shows no variance at all; the source's is then the only measure there is.
    own = moments.var_population if moments.count > 1 else source.var
    scale = _steadied(own, source.var, values=n / share)
    relative = _PRIOR_FREEDOM * 2 * share + between_square / np.where(scale > 0, scale, 1.0) ** 2
    freedom = _PRIOR_FREEDOM + n - 1
    # To judge by: the posterior mean, which has 2 degrees less than the prior's own centre. To undo
    # a bias: the centre, in the channel's own unit, so that a silent channel stays silent.
    spread = (_PRIOR_FREEDOM * share * own + between_mean) / freedom / n
    log_bias, log_var = log_gamma_moments(
        1 / np.maximum(relative / (freedom - 2) / n, 1 / _CERTAIN)
    )
    return _Errors(
        mean=(_PRIOR_FREEDOM * share * scale + between_mean) / (freedom - 2) / n,
        log_var=log_var,
        var=moments.var_population + spread,
        log_bias=log_bias,
        spread=spread,
    )


def _steadied(var: Float64Array, unit: Float64Array, *, values: float) -> Float64Array:
    """Each channel's variance, drawn to the layer's where few values carry it.

    Args:
        var: target variance, (C,).
        unit: source variance, (C,): the unit in which channels are compared.
        values: independent values that a channel is worth; weighs against the prior's freedom.
    """
    live = (unit > 0) & (var > 0)
    if not live.any():
        return var
    typical = unit * np.median(var[live] / unit[live])
    steadied: Float64Array = (values * var + _PRIOR_FREEDOM * typical) / (values + _PRIOR_FREEDOM)
    return steadied


def log_gamma_moments(shape: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Mean and variance of the logarithm of a gamma variable of mean 1.

    They are ψ(a) - ln a and ψ'(a) for the shape a > 0, here by their asymptotic series at a + 6 and
    the recurrences down from there; right to 1e-7.

    Source: Abramowitz & Stegun 1964, 6.3.5, 6.3.18, 6.4.6 and 6.4.12.
    """
    steps = shape[..., np.newaxis] + np.arange(6)
    x = shape + 6
    digamma = np.log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4)
    trigamma = 1 / x + 1 / (2 * x**2) + 1 / (6 * x**3) - 1 / (30 * x**5)
    mean = digamma - (1 / steps).sum(axis=-1) - np.log(shape)
    return mean, trigamma + (1 / steps**2).sum(axis=-1)


def _ratio(square: Float64Array, error: Float64Array) -> Float64Array:
    """t², with a vanishing error made certain instead of infinite."""
    return np.minimum(square / np.maximum(error, square / _CERTAIN + 1e-300), _CERTAIN)


def shift_weights(ratios: Float64Array) -> Float64Array:
    """Posterior mean of r/(1 + r) per channel, the distribution of r estimated from all.

    Args:
        ratios: t², (C,), at least 0: squared shifts in units of their squared errors.

    Returns:
        (C,), each in [0, 1), growing with t².
    """
    likelihood = _likelihood(ratios)
    flat = np.full(_GRID.size, 1 / _GRID.size)
    prior = flat
    for _ in range(_STEPS):
        posterior = _normalised(likelihood * prior)
        prior = (posterior.sum(axis=0) + flat) / (ratios.size + 1)
    weights: Float64Array = _normalised(likelihood * prior) @ _WEIGHTS
    return weights


def _likelihood(ratios: Float64Array) -> NDArray[np.float64]:
    """Density of t² under each r up to a factor per channel, (C, grid); the largest is 1."""
    scale = 1 + _GRID
    log_density = -0.5 * (ratios[:, np.newaxis] / scale + np.log(scale))
    log_density -= log_density.max(axis=1, keepdims=True)
    density: NDArray[np.float64] = np.exp(log_density)
    return density


def _normalised(joint: NDArray[np.float64]) -> NDArray[np.float64]:
    posterior: NDArray[np.float64] = joint / joint.sum(axis=1, keepdims=True)
    return posterior
