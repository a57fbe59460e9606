"""What predictions on unlabelled data say about a recalibration, before against after.

No signal without labels is known to tell harm from help for certain. docs/harm-check.md has the
rates of those that were measured. Two warn: the mean entropy of the class probabilities rising by
more than a quarter of its range, which found 18 of 22 harmful runs and also 15 of 78 helpful ones,
and a collapse of variety, many classes predicted before and few after, which no measured run
showed.

Source of the variety: Hill 1973, "Diversity and Evenness", order 1 (the exponential of the Shannon
entropy is an effective number of classes).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.statistics import Float64Array
from bn_ops.errors import OptionError

__all__ = ["PredictionSignals", "prediction_signals", "softmax"]

_CLASS_AXES = 2

# Fewer predictions than this have too little variety themselves to see it collapse.
_FEWEST_PREDICTIONS = 16

# Rise of the mean entropy, as a share of ln K, its largest value. Chosen on the development cases
# of benchmarks/accuracy/harm.py (0.6 nats of 10 classes), checked on the others.
_ENTROPY_RISE = 0.26

# Fewer than half of the effective classes left, counted over the same samples.
_COLLAPSE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSignals:
    """A classification head before and after, on the same samples.

    Attributes:
        samples: how many.
        classes: K.
        agreement: share of samples whose most likely class is the same.
        entropy_change: mean entropy of the class probabilities, after minus before, in nats.
        variety_before, variety_after: effective number of predicted classes, 1 to the number of
            classes.
    """

    samples: int
    classes: int
    agreement: float
    entropy_change: float
    variety_before: float
    variety_after: float

    @property
    def less_certain(self) -> bool:
        """Whether the answers became much less certain: the best sign of harm that was found."""
        return self.entropy_change > _ENTROPY_RISE * math.log(self.classes)

    @property
    def collapsed(self) -> bool:
        """Whether predictions crowd into less than half as many classes as before."""
        enough = self.samples >= _FEWEST_PREDICTIONS
        return enough and self.variety_after < _COLLAPSE * self.variety_before


def prediction_signals(
    before: NDArray[np.floating], after: NDArray[np.floating]
) -> PredictionSignals:
    """Compare class probabilities.

    Args:
        before: (N, K), rows sum to 1, N ≥ 1, K ≥ 2: the source model's.
        after: likewise, the recalibrated model's, on the same samples.

    Raises:
        OptionError: the two are no tables of probabilities of one shape.
    """
    shapes = before.shape, after.shape
    if before.ndim != _CLASS_AXES or shapes[0] != shapes[1] or min(shapes[0]) == 0:
        raise OptionError(f"two tables (N, K) of class probabilities are needed, got {shapes}")
    old, new = before.argmax(axis=1), after.argmax(axis=1)
    classes = before.shape[1]
    return PredictionSignals(
        samples=before.shape[0],
        classes=classes,
        agreement=float(np.mean(old == new)),
        entropy_change=float(np.mean(_entropy(after)) - np.mean(_entropy(before))),
        variety_before=_variety(old, classes),
        variety_after=_variety(new, classes),
    )


def softmax(logits: NDArray[np.floating]) -> Float64Array:
    """Class probabilities of logits (N, K), float64, safe for any magnitude."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    probabilities: Float64Array = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def _entropy(probabilities: NDArray[np.floating]) -> Float64Array:
    wide = probabilities.astype(np.float64)
    entropy: Float64Array = -np.sum(wide * np.log(np.maximum(wide, 1e-300)), axis=1)
    return entropy


def _variety(predicted: NDArray[np.intp], classes: int) -> float:
    shares = np.bincount(predicted, minlength=classes)[np.newaxis] / predicted.size
    return float(np.exp(_entropy(shares)[0]))
