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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.frontier import LayerUpdate
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moments import Moments
from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
from bn_ops.diagnostics.forward_pass import ForwardPass, ForwardRunner, observe
from bn_ops.diagnostics.report import (
    ActivationReport,
    ActivationSummary,
    LayerReport,
    PredictionShift,
    Report,
)
from bn_ops.errors import OptionError

__all__ = [
    "COMPARED_SAMPLES",
    "Comparison",
    "activation_summary",
    "compare_heads",
    "prediction_shift",
    "prediction_warnings",
    "softmax",
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


def softmax(logits: NDArray[np.floating]) -> Float64Array:
    """Return the class probabilities of logits (N, K), float64; safe for any magnitude."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    probabilities: Float64Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _entropy(probabilities: NDArray[np.floating]) -> Float64Array:
    wide = probabilities.astype(np.float64)
    entropy: Float64Array = -np.sum(wide * np.log(np.maximum(wide, 1e-300)), axis=1)
    return entropy


def _effective_classes(predicted: NDArray[np.intp], classes: int) -> float:
    shares = np.bincount(predicted, minlength=classes)[np.newaxis] / predicted.size
    return float(np.exp(_entropy(shares)[0]))


# Samples of the stream that are kept, for this comparison and for verifying the folded model.
COMPARED_SAMPLES = 32

# How far a row of float32 probabilities may be from summing to 1 before it is treated as logits.
_SUM_TOLERANCE = 1e-3

BatchT = TypeVar("BatchT")


class Comparison(Generic[BatchT]):
    """Two forward passes over the same samples, and what they add to a report.

    Args:
        batches: the samples, checked by the engine.
        samples: the number of samples.
    """

    def __init__(self, batches: Sequence[BatchT], samples: int) -> None:
        self._batches = batches
        self._samples = samples
        self._passes: list[ForwardPass] = []

    def observe(self, runner: ForwardRunner[BatchT]) -> None:
        """Run the network: call first with the source statistics, then with the new ones."""
        self._passes.append(observe(runner, self._batches))

    def added_to(
        self,
        report: Report,
        infos: Iterable[LayerInfo],
        updates: Mapping[LayerName, LayerUpdate],
    ) -> Report:
        """Return the report with prediction shift, activations by depth, and their warnings."""
        before, after = self._passes
        shift = compare_heads(before, after, samples=self._samples)
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
    for name, left in before.tables.items():
        right = after.tables.get(name)
        if right is not None and _usable(left, samples) and _usable(right, samples):
            return prediction_shift(name, _probabilities(left), _probabilities(right))
    return None


def _usable(table: Float64Array, samples: int) -> bool:
    return samples > 0 and table.shape[0] == samples and bool(np.isfinite(table).all())


def _probabilities(table: Float64Array) -> Float64Array:
    sums = table.sum(axis=1)
    if (table >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all():
        return table
    return softmax(table)
