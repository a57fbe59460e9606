"""How predictions on unlabeled data changed from before to after a recalibration.

No signal without labels separates harmful from helpful runs with certainty; docs/harm-check.md has
the measured rates. Two signals warn: a rise of the mean entropy of the class probabilities by more
than a quarter of its range, which flagged 18 of 22 harmful runs and 15 of 78 helpful ones, and a
collapse of the effective number of classes, which no measured run showed.

Source of the effective number of classes: Hill 1973, "Diversity and Evenness", order 1 (the
exponential of the Shannon entropy).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.statistics import Float64Array
from bn_ops.diagnostics.report import PredictionShift
from bn_ops.errors import OptionError

__all__ = ["prediction_shift", "prediction_warnings", "softmax"]

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
