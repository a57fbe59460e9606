"""Shrink: move from source to target as far as the data support it, without a parameter.

Each layer has two candidates: the source's statistics, correct if nothing moved, and the target's,
correct if n samples were enough. Shrink estimates by empirical Bayes how far each channel moved,
and moves that far.

**Model.** Per channel, in the source's unit, with v̂ the target variance freed of its bias:

    z = (μt - μs)/σs  ~ N(δ, e²)        l = ln(v̂/σs²)  ~ N(λ, f²)

e² and f² are squared clustered standard errors: the sample is the unit of replication, not the
pixel. A true shift of variance r·e² (or r·f²) makes t² = z²/e² a (1 + r)·χ² variable with one
degree of freedom, and its posterior mean is w·z with w = r/(1 + r): the positive-part James-Stein
weight 1 - 1/t² where r is estimated by t² - 1.

**Per layer or per channel.** r is not fixed in advance. It has a prior π over a grid that includes
0, and π is estimated from all channels of the layer together (EM, started from the flat prior,
which is kept with the weight of one channel). If all channels moved alike, π concentrates at one r
and all get the same weight; if a few moved, only they do; if none did, π concentrates at 0. A
channel's w is the posterior mean of r/(1 + r). The same is done for ln v, with its own π.

**One weight per channel.** Mean and variance use the larger of their two weights. A layer whose
scale has moved has left the source's domain, and the source's mean is then not informative, however
close the two means are by chance.

**Small n.** The variance between samples has n - 1 degrees of freedom: none at n = 1. It is
moderated (Smyth 2004) by a prior of 4 degrees of freedom: at n = 1 the posterior mean of e² is
finite from 3 on, and with 4 it is twice the prior's center instead of three times (2, 3 and 4 were
tried on the development data of benchmarks/accuracy). The center is a design effect: the share ρ
of a channel's variance lies between samples, where ρ is between 1/P (a sample's P positions are
independent) and 1 (they are equal); the center of that range on a log scale is ρ = 1/√P. One sample
is then worth 1/ρ independent values, so the variance of its mean square is 2ρσ⁴. Its σ² is the
channel's own, shrunk toward the layer's median where it rests on few values. So the error at n = 1
is finite but large, and only a large shift leaves the source. With few values v̂ is far from normal;
it is modeled as a gamma variable with the estimated relative variance, so the mean and variance of
ln v̂ are those of a log-gamma variable (ψ and ψ').

**Bias.** The population variance of n samples lacks the variance of their own mean:
v̂ = v + SE²(μ). Since the new mean is itself uncertain, the layer's input is spread around it more
widely by the posterior variance w·SE²(μ), which is added (the law of total variance; the same term
as the `mixture` option of `Prior`). Both vanish as 1/n.

As n grows e² and f² fall, w goes to 1 for every channel that moved at all, and Shrink becomes
`Replace`. It is deterministic: a fixed number of EM steps from a fixed start. Nothing was tuned on
the held-out part of a benchmark; docs/estimators.md has the figures.

Sources: Efron & Morris 1973, "Stein's Estimation Rule and Its Competitors", section 2 (empirical
Bayes form of the James-Stein weight); Stephens 2017, "False discovery rates: a new deal", section 2
(scale mixture with a null, estimated by EM); Smyth 2004, "Linear models and empirical Bayes methods
for assessing differential expression in microarray experiments", section 4 (moderated variance);
Kish 1965, "Survey Sampling", section 5.4 (design effect of clusters).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.estimators.base import TargetMoments
from bn_ops.core.statistics import Float64Array, RunningStatistics

__all__ = ["Shrink"]

# Degrees of freedom of the prior for variances between samples; see "Small n" above.
_PRIOR_FREEDOM = 4

# r, the variance of the true shifts in units of the error: 0, and 1/4 to 4^15 in steps of 4. One t²
# per channel cannot resolve a finer grid; at its upper end w is 1 to nine digits.
_GRID: Float64Array = np.concatenate([[0.0], 4.0 ** np.arange(-1, 16)])
_WEIGHTS: Float64Array = _GRID / (1 + _GRID)

# EM converges slowly near the null, where it no longer matters: the weights of the 100th step
# differ from the limit's by less than 0.01.
_STEPS = 100

# t² of a channel whose error vanishes: large enough for w = 1, and finite.
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
    """Weigh source and target per channel by their errors; derived in the module docstring.

    new mean = μs + w·(μt - μs), new var = σs²·(v̂/σs²)^w + w·SE²(μ), with w in [0, 1).

    A channel without variance in the source has no unit for a shift, and one without variance in
    the target has no scale: both take the target's statistics, as with `Replace`, and are left to
    the guards.
    """

    per_batch: ClassVar[bool] = False

    def __call__(self, source: RunningStatistics, moments: TargetMoments, /) -> RunningStatistics:
        """Return the shrunken statistics."""
        errors = _errors(source, moments)
        live = (source.var > 0) & (errors.var > 0)
        mean, var = moments.mean.copy(), moments.var.copy()
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


def _errors(source: RunningStatistics, moments: TargetMoments, /) -> _Errors:
    """Return the moderated clustered standard errors; see "Small n" and "Bias" above."""
    n = moments.samples
    share = (moments.count / n) ** -0.5  # ρ = 1/√P
    sums = moments.sample_sums.recentered(moments.mean, n)
    between_mean = np.maximum(sums.aa, 0)
    between_square = np.maximum(sums.ee - sums.e**2 / n, 0)
    # A single value has no variance; the source's is then the only measure available.
    own = moments.var if moments.count > 1 else source.var
    scale = _moderated(own, source.var, values=n / share)
    relative = _PRIOR_FREEDOM * 2 * share + between_square / np.where(scale > 0, scale, 1.0) ** 2
    freedom = _PRIOR_FREEDOM + n - 1
    # Errors use the posterior mean, with 2 degrees of freedom less than the prior's center. Bias
    # correction uses the center in the channel's own unit, so that a constant channel stays so.
    spread = (_PRIOR_FREEDOM * share * own + between_mean) / freedom / n
    log_bias, log_var = log_gamma_moments(
        1 / np.maximum(relative / (freedom - 2) / n, 1 / _CERTAIN)
    )
    return _Errors(
        mean=(_PRIOR_FREEDOM * share * scale + between_mean) / (freedom - 2) / n,
        log_var=log_var,
        var=moments.var + spread,
        log_bias=log_bias,
        spread=spread,
    )


def _moderated(var: Float64Array, unit: Float64Array, *, values: float) -> Float64Array:
    """Return each channel's variance, shrunk toward the layer's where it rests on few values.

    Args:
        var: target variance, (C,).
        unit: source variance, (C,): the unit in which channels are compared.
        values: effective number of independent values per channel, weighed against the prior's
            degrees of freedom.
    """
    live = (unit > 0) & (var > 0)
    if not live.any():
        return var
    typical = unit * np.median(var[live] / unit[live])
    moderated: Float64Array = (values * var + _PRIOR_FREEDOM * typical) / (values + _PRIOR_FREEDOM)
    return moderated


def log_gamma_moments(shape: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Return mean and variance of the logarithm of a gamma variable of mean 1.

    They are ψ(a) - ln a and ψ'(a) for the shape a > 0, computed by their asymptotic series at a + 6
    and the recurrences down from there; accurate to 1e-7.

    Source: Abramowitz & Stegun 1964, 6.3.5, 6.3.18, 6.4.6 and 6.4.12.
    """
    steps = shape[..., np.newaxis] + np.arange(6)
    x = shape + 6
    digamma = np.log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4)
    trigamma = 1 / x + 1 / (2 * x**2) + 1 / (6 * x**3) - 1 / (30 * x**5)
    mean = digamma - (1 / steps).sum(axis=-1) - np.log(shape)
    return mean, trigamma + (1 / steps**2).sum(axis=-1)


def _ratio(square: Float64Array, error: Float64Array) -> Float64Array:
    """Return t², bounded where the error vanishes."""
    return np.minimum(square / np.maximum(error, square / _CERTAIN + 1e-300), _CERTAIN)


def shift_weights(ratios: Float64Array) -> Float64Array:
    """Return the posterior mean of r/(1 + r) per channel; all channels determine the prior.

    Args:
        ratios: t², (C,), at least 0: squared shifts in units of their squared errors.

    Returns:
        (C,), each in [0, 1), growing with t².
    """
    likelihood = _likelihood(ratios)
    flat = np.full(_GRID.size, 1 / _GRID.size)
    prior = flat
    for _ in range(_STEPS):
        posterior = _normalized(likelihood * prior)
        prior = (posterior.sum(axis=0) + flat) / (ratios.size + 1)
    weights: Float64Array = _normalized(likelihood * prior) @ _WEIGHTS
    return weights


def _likelihood(ratios: Float64Array) -> NDArray[np.float64]:
    """Return the density of t² under each r, (C, grid), each channel scaled to maximum 1."""
    scale = 1 + _GRID
    log_density = -0.5 * (ratios[:, np.newaxis] / scale + np.log(scale))
    log_density -= log_density.max(axis=1, keepdims=True)
    density: NDArray[np.float64] = np.exp(log_density)
    return density


def _normalized(joint: NDArray[np.float64]) -> NDArray[np.float64]:
    posterior: NDArray[np.float64] = joint / joint.sum(axis=1, keepdims=True)
    return posterior
