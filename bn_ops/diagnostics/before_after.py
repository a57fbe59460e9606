"""Compare the network before and after on a few samples; shared by all engines.

An engine runs the same network twice, with the source and with the new statistics. This module
turns the two runs into the report's activations by depth and prediction shift.

Where the statistics fit the data, every layer normalizes its input to mean 0 and spread 1 before
scale and shift, at any depth. With the source statistics, data of a new domain is off, and each
layer adds to the error of the ones before it; the report shows how this grows with depth and how
much of it remains afterwards.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.frontier import LayerUpdate
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moments import Moments
from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
from bn_ops.diagnostics.forward_pass import ForwardPass, shared_class_output
from bn_ops.diagnostics.report import (
    ActivationReport,
    ActivationSummary,
    ClassChange,
    LayerReport,
    PredictionShift,
    Report,
)
from bn_ops.errors import OptionError

__all__ = [
    "OBSERVED_SAMPLES",
    "activation_summary",
    "compare_heads",
    "compared",
    "prediction_shift",
    "prediction_warnings",
]

# How predictions on unlabeled data changed from before to after a recalibration.
#
# No signal without labels separates harmful from helpful runs with certainty; docs/harm-check.md
# has the measured rates. Two signals warn: a rise of the mean entropy of the class probabilities by
# more than a quarter of its range, which flagged 18 of 22 harmful runs and 15 of 78 helpful ones,
# and a collapse of the effective number of classes, which no measured run showed.
#
# Source of the effective number of classes: Hill 1973, "Diversity and Evenness", order 1 (the
# exponential of the Shannon entropy).

_TABLE_RANK = 2

# Fewer predictions than this cover too few classes themselves to show a collapse.
_MIN_PREDICTIONS = 16

# Rise of the mean entropy, as a share of ln K, its maximum. Chosen on the development cases of
# benchmarks/accuracy/harm.py (0.6 nats of 10 classes), checked on the others.
_ENTROPY_RISE = 0.26

# Less than half of the effective classes left, counted over the same samples.
_COLLAPSE = 0.5

# Changes of the class that the report lists.
_MAX_CHANGES = 20


def prediction_shift(
    output: str, before: NDArray[np.floating], after: NDArray[np.floating]
) -> PredictionShift:
    """Compare class probabilities.

    Args:
        output: name of the output.
        before: (N, K), rows sum to 1, N ≥ 1, K ≥ 2: those of the source model.
        after: the same for the recalibrated model on the same samples.

    Raises:
        OptionError: the two are not tables of probabilities of the same shape.
    """
    shapes = before.shape, after.shape
    if before.ndim != _TABLE_RANK or shapes[0] != shapes[1] or min(shapes[0]) == 0:
        raise OptionError(f"expected two tables (N, K) of class probabilities, got {shapes}")
    old, new = before.argmax(axis=1), after.argmax(axis=1)
    samples, classes = before.shape
    entropy_change = float(np.mean(_entropy(after)) - np.mean(_entropy(before)))
    classes_before, classes_after = (_effective_classes(p, classes) for p in (old, new))
    return PredictionShift(
        output=output,
        samples=samples,
        classes=classes,
        agreement=float(np.mean(old == new)),
        entropy_change=entropy_change,
        effective_classes_before=classes_before,
        effective_classes_after=classes_after,
        less_certain=entropy_change > _ENTROPY_RISE * math.log(classes),
        collapsed=samples >= _MIN_PREDICTIONS and classes_after < _COLLAPSE * classes_before,
        changes=_changes(old, new),
        confidence_before=float(np.mean(before.max(axis=1))),
        confidence_after=float(np.mean(after.max(axis=1))),
    )


def _changes(old: NDArray[np.intp], new: NDArray[np.intp]) -> tuple[ClassChange, ...]:
    """Return the most frequent changes of the class; equally frequent ones by class."""
    counts = Counter(
        (int(before), int(after)) for before, after in zip(old, new, strict=True) if before != after
    )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(
        ClassChange(before=before, after=after, samples=samples)
        for (before, after), samples in ordered[:_MAX_CHANGES]
    )


def prediction_warnings(shift: PredictionShift) -> tuple[str, ...]:
    """Warn about the two changes that may indicate harm; docs/harm-check.md has their rates."""
    where = f"output {shift.output!r}, {shift.samples} samples: "
    advice = "compare both models on labeled samples before deploying"
    warnings = []
    if shift.less_certain:
        warnings.append(
            f"{where}predictions became much less certain (mean entropy "
            f"{shift.entropy_change:+.2f} nats), as in most harmful runs and some helpful ones: "
            f"{advice}"
        )
    if shift.collapsed:
        warnings.append(
            f"{where}predictions cover {shift.effective_classes_after:.1f} effective classes, "
            f"down from {shift.effective_classes_before:.1f}: {advice}"
        )
    return tuple(warnings)


def _entropy(probabilities: NDArray[np.floating]) -> Float64Array:
    wide = probabilities.astype(np.float64)
    entropy: Float64Array = -np.sum(wide * np.log(np.maximum(wide, 1e-300)), axis=1)
    return entropy


def _effective_classes(predicted: NDArray[np.intp], classes: int) -> float:
    shares = np.bincount(predicted, minlength=classes)[np.newaxis] / predicted.size
    return float(np.exp(_entropy(shares)[0]))


OBSERVED_SAMPLES = 32
"""Samples of the probe on which the layers' inputs are observed."""


def compared(
    report: Report,
    before: ForwardPass,
    after: ForwardPass,
    *,
    samples: int,
    infos: Iterable[LayerInfo],
    updates: Mapping[LayerName, LayerUpdate],
) -> Report:
    """Return a report with prediction shift, activations by depth, and their warnings.

    Args:
        report: the report so far.
        before: the network with the source statistics.
        after: the network with the new statistics, on the same samples.
        samples: the number of samples.
        infos: every layer of the model.
        updates: the recalibrated layers.
    """
    shift = compare_heads(before, after, samples=samples)
    known = {info.name: info for info in infos}
    return replace(
        report,
        prediction_shift=shift,
        layers=tuple(
            _with_activations(layer, before, after, known[layer.name], updates.get(layer.name))
            for layer in report.layers
        ),
        warnings=(*report.warnings, *(() if shift is None else prediction_warnings(shift))),
    )


def _with_activations(
    layer: LayerReport,
    before: ForwardPass,
    after: ForwardPass,
    info: LayerInfo,
    update: LayerUpdate | None,
) -> LayerReport:
    old, new = before.inputs.get(info.name), after.inputs.get(info.name)
    source = info.statistics
    if old is None or new is None or source is None:
        return layer
    stored = source if update is None else update.statistics
    return replace(
        layer,
        activations=ActivationReport(
            samples=new.samples,
            before=activation_summary(old, source, eps=info.eps),
            after=activation_summary(new, stored, eps=info.eps),
        ),
    )


def activation_summary(
    moments: Moments, stored: RunningStatistics, *, eps: float
) -> ActivationSummary:
    """Summarize one layer's input and how well its statistics fit.

    Args:
        moments: moments of the layer's input.
        stored: the statistics with which the layer normalized it.
        eps: the layer's epsilon.

    Returns:
        Averages over channels in the input's own unit, and medians over channels of the normalized
        input's, so that a few dead channels do not dominate.
    """
    var = moments.var_population
    divisor = np.sqrt(np.maximum(stored.var, 0) + eps)
    with np.errstate(all="ignore"):
        return ActivationSummary(
            mean=float(np.mean(moments.mean)),
            spread=float(np.sqrt(np.mean(var))),
            normalized_shift=float(np.median(np.abs(moments.mean - stored.mean) / divisor)),
            normalized_spread=float(np.median(np.sqrt(var) / divisor)),
        )


def compare_heads(
    before: ForwardPass, after: ForwardPass, *, samples: int
) -> PredictionShift | None:
    """Compare the classification head of a network before and after.

    Args:
        before: the network with the source statistics.
        after: the network with the new statistics, on the same samples.
        samples: the number of samples.

    Returns:
        The shift of the first output that looks like a head: a floating table (samples, classes) of
        finite numbers. None where there is no such output.
    """
    found = shared_class_output(before, after, samples=samples, maps=False)
    if found is None:
        return None
    left, right = found
    return prediction_shift(left.name, left.probabilities[:, 0], right.probabilities[:, 0])
