"""From settled layers to report entries: drift, errors, guards, and the warnings they cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from bn_ops.core.frontier import Settlement
from bn_ops.core.layers import LayerInfo
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.diagnostics.autocorrelation import Correlation
from bn_ops.diagnostics.predictions import PredictionSignals
from bn_ops.diagnostics.report import CorrelationReport, DriftSummary, LayerReport, PredictionReport
from bn_ops.diagnostics.standard_errors import confidence

__all__ = [
    "TARGET_ERROR",
    "correlation_report",
    "drift",
    "layer_reports",
    "prediction_report",
    "prediction_warnings",
    "warnings_of",
]

# "Converged" means that mean and scale are known to this many σ; about 200 images reach it.
TARGET_ERROR = 0.05

# Fewer samples than this carry too little to be trusted without a look at the errors.
_FEW_SAMPLES = 16

# A gain that grew by more than this turns small noise into signal.
_HIGH_AMPLIFICATION = 10.0

_LISTED = 3


def drift(source: RunningStatistics, target: RunningStatistics, eps: float) -> DriftSummary:
    """Summarise how far statistics moved."""
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


def layer_reports(
    layers: Iterable[LayerInfo],
    chosen: frozenset[LayerName],
    settled: Mapping[LayerName, Settlement],
) -> tuple[LayerReport, ...]:
    """Report every layer of a model, recalibrated or not."""
    return tuple(_layer(layer, chosen, settled.get(layer.name)) for layer in layers)


def _layer(
    layer: LayerInfo, chosen: frozenset[LayerName], settlement: Settlement | None
) -> LayerReport:
    if settlement is None:
        status, reason = _absence(layer, chosen)
        return LayerReport(name=layer.name, status=status, reason=reason, channels=layer.channels)
    moments, guarded = settlement.moments, settlement.guarded
    known = confidence(moments, target=TARGET_ERROR, floor=1e-5 * layer.eps)
    return LayerReport(
        name=layer.name,
        status="recalibrated",
        channels=moments.channels,
        samples=moments.samples,
        count=moments.count,
        drift=drift(settlement.source, settlement.statistics, layer.eps),
        mean_error=None if known is None else known.mean_error,
        scale_error=None if known is None else known.scale_error,
        samples_needed=None if known is None else known.samples_needed,
        dead_channels=guarded.dead,
        silenced_channels=guarded.silenced,
        amplification=guarded.amplification,
    )


def _absence(layer: LayerInfo, chosen: frozenset[LayerName]) -> tuple[str, str]:
    if layer.reason is not None:
        return "out_of_reach", layer.reason
    if layer.name not in chosen:
        return "left_out", "no layer pattern includes it"
    return "unreached", "no batch reached it; its statistics are as they were"


def correlation_report(found: Correlation | None) -> CorrelationReport | None:
    """Report what the order of a stream showed."""
    if found is None:
        return None
    return CorrelationReport(
        blocks=found.blocks,
        block_samples=found.block_samples,
        error_ratio=found.error_ratio,
        effective_samples=found.effective_samples,
        suspicious=found.suspicious,
    )


def prediction_report(output: str, signals: PredictionSignals) -> PredictionReport:
    """Report how a classification head's answers changed."""
    return PredictionReport(
        output=output,
        samples=signals.samples,
        classes=signals.classes,
        agreement=signals.agreement,
        entropy_change=signals.entropy_change,
        variety_before=signals.variety_before,
        variety_after=signals.variety_after,
        less_certain=signals.less_certain,
        collapsed=signals.collapsed,
    )


def prediction_warnings(found: PredictionReport) -> tuple[str, ...]:
    """Warn of the two changes in predictions that may mean harm; docs/harm-check.md has rates."""
    where = f"output {found.output!r}, {found.samples} samples: "
    check = "compare both models on labelled samples before deploying"
    warnings = []
    if found.less_certain:
        warnings.append(
            f"{where}the answers became much less certain (mean entropy "
            f"{found.entropy_change:+.2f} nats), as they do in most runs that do harm and in some "
            f"that help: {check}"
        )
    if found.collapsed:
        warnings.append(
            f"{where}predictions spread over {found.variety_after:.1f} classes, over "
            f"{found.variety_before:.1f} before: {check}"
        )
    return tuple(warnings)


def warnings_of(
    reports: Iterable[LayerReport], samples: int, correlation: CorrelationReport | None = None
) -> tuple[str, ...]:
    """Warn of what a person should look at before deploying."""
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
        _about([r.name for r in reports if r.status == "unreached"], "were reached by no batch"),
        _about([r.name for r in reports if r.status == "out_of_reach"], "cannot be recalibrated"),
    ]
    return tuple(sentence for sentence in found if sentence)


def _few_samples(done: list[LayerReport], samples: int) -> str | None:
    if samples >= _FEW_SAMPLES or not done:
        return None
    return (
        f"only {samples} samples carry the statistics; under little drift so few can do harm: "
        "send more, or let the estimator Shrink weigh the source in"
    )


def _correlated(samples: int, found: CorrelationReport | None) -> str | None:
    if found is None or not found.suspicious:
        return None
    return (
        f"neighbouring samples are alike: over {found.blocks} blocks of {found.block_samples} "
        f"samples the standard error is {found.error_ratio:.1f} times the sample-wise one, so the "
        f"{samples} samples are worth about {found.effective_samples}: the errors of the layers "
        "are too small by that factor; send samples from more places or times"
    )


def _about(names: list[LayerName], what: str) -> str | None:
    if not names:
        return None
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"layers {what}: {', '.join(map(repr, names[:_LISTED]))}{more}"
