"""Build the report's layer entries (drift, confidence, guards) and the warnings they cause."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from bn_ops.core.frontier import LayerUpdate
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moments import Moments
from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
from bn_ops.diagnostics.report import (
    Confidence,
    Correlation,
    DriftSummary,
    FrozenReport,
    LayerReport,
)

__all__ = [
    "TARGET_ERROR",
    "StandardErrors",
    "confidence",
    "drift",
    "frozen_report",
    "layer_reports",
    "standard_errors",
    "warnings_of",
]

# Standard errors of the moments, clustered by sample, and the number of samples that suffices.
#
# The unit of replication is the sample, never the pixel: positions of one sample are dependent, and
# a standard error that counts them as independent is an order of magnitude too small in the first
# layers of a network.

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


# "Converged" means that mean and scale are known to this many σ; about 200 images reach it.
TARGET_ERROR = 0.05

# Statistics of fewer samples than this should not be trusted without checking their errors.
_FEW_SAMPLES = 16

# A gain that grew by more than this turns small noise into signal.
_HIGH_AMPLIFICATION = 10.0

_MAX_LISTED = 3


def drift(source: RunningStatistics, target: RunningStatistics, eps: float) -> DriftSummary:
    """Summarize how far statistics moved."""
    scale = np.sqrt(np.maximum(source.var, 0) + eps)
    new_scale = np.sqrt(np.maximum(target.var, 0) + eps)
    shift = np.abs(target.mean - source.mean) / scale
    ratio = np.abs(2 * np.log(new_scale / scale))
    distance = np.hypot(shift, new_scale / scale - 1)
    return DriftSummary(
        mean_shift_median=float(np.median(shift)),
        mean_shift_max=float(shift.max()),
        log_var_ratio_median=float(np.median(ratio)),
        log_var_ratio_max=float(ratio.max()),
        wasserstein=float(np.sqrt(np.mean(distance**2))),
    )


def frozen_report(before: Mapping[str, str], after: Mapping[str, str]) -> FrozenReport:
    """Report the sha256 of each frozen tensor, and of all of them before and after the run."""
    return FrozenReport(
        tensors=before,
        sha256_before=_combined(before),
        sha256_after=_combined({name: after[name] for name in before if name in after}),
    )


def _combined(digests: Mapping[str, str]) -> str:
    """Return one sha256 over a set of digests, independent of their order."""
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def layer_reports(
    layers: Iterable[LayerInfo],
    selected: frozenset[LayerName],
    updates: Mapping[LayerName, LayerUpdate],
    *,
    source_kept: bool = False,
) -> tuple[LayerReport, ...]:
    """Report every layer of a model, recalibrated or not.

    Args:
        layers: every layer.
        selected: the layers to recalibrate.
        updates: the layers that were reached.
        source_kept: whether their source statistics were kept by choice.
    """
    reports = (_layer(layer, selected, updates.get(layer.name)) for layer in layers)
    if not source_kept:
        return tuple(reports)
    return tuple(
        replace(report, status="unchanged", reason="the source statistics were kept")
        if report.status == "recalibrated"
        else report
        for report in reports
    )


def _layer(
    layer: LayerInfo, selected: frozenset[LayerName], update: LayerUpdate | None
) -> LayerReport:
    if update is None:
        status, reason = _absence(layer, selected)
        return LayerReport(name=layer.name, status=status, reason=reason, channels=layer.channels)
    moments, guarded = update.moments, update.guarded
    return LayerReport(
        name=layer.name,
        status="recalibrated",
        channels=moments.channels,
        samples=moments.samples,
        count=moments.count,
        drift=drift(update.source, update.statistics, layer.eps),
        confidence=confidence(moments, target=TARGET_ERROR, floor=1e-5 * layer.eps),
        dead_channels=guarded.dead,
        silenced_channels=guarded.silenced,
        amplification=guarded.amplification,
    )


def _absence(layer: LayerInfo, selected: frozenset[LayerName]) -> tuple[str, str]:
    if layer.reason is not None:
        return "unsupported", layer.reason
    if layer.name not in selected:
        return "excluded", "no layer pattern includes it"
    return "unreached", "no batch reached it; its statistics are unchanged"


def warnings_of(
    reports: Iterable[LayerReport], samples: int, correlation: Correlation | None = None
) -> tuple[str, ...]:
    """Return a warning for everything that should be checked before deploying."""
    reports = list(reports)
    done = [report for report in reports if report.status == "recalibrated"]
    found = [
        _few_samples(done, samples),
        _correlated(samples, correlation),
        _about(
            [r.name for r in done if r.silenced_channels],
            "lost all variance of some channels in the new domain; those keep the source variance",
        ),
        _about(
            [r.name for r in done if (r.amplification or 0) > _HIGH_AMPLIFICATION],
            f"amplify some channel more than {_HIGH_AMPLIFICATION:g} times as much as before",
        ),
        _about(
            [r.name for r in reports if r.status == "unreached"], "were not reached by any batch"
        ),
        _about([r.name for r in reports if r.status == "unsupported"], "cannot be recalibrated"),
    ]
    return tuple(sentence for sentence in found if sentence)


def _few_samples(done: list[LayerReport], samples: int) -> str | None:
    if samples >= _FEW_SAMPLES or not done:
        return None
    return (
        f"the statistics come from only {samples} samples, which can do harm where the domain "
        "differs little: send more samples, or use the estimator Shrink, which weighs in the "
        "source statistics"
    )


def _correlated(samples: int, found: Correlation | None) -> str | None:
    if found is None or not found.suspicious:
        return None
    return (
        f"neighboring samples are correlated: over {found.blocks} blocks of {found.block_samples} "
        f"samples the standard error is {found.error_ratio:.1f} times the sample-wise one, so the "
        f"{samples} samples are worth about {found.effective_samples} independent ones, and the "
        "reported errors of the layers are too small by that factor; send samples from more places "
        "or times"
    )


def _about(names: list[LayerName], what: str) -> str | None:
    if not names:
        return None
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"layers {what}: {', '.join(map(repr, names[:_MAX_LISTED]))}{more}"
