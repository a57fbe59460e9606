"""What predictions on unlabelled data say about a recalibration, before against after.

No signal without labels is known to tell harm from help, and those measured in docs/harm-check.md
are described there with their rates. The numbers here are evidence for a person; the one that warns
is a collapse of variety: many classes predicted before, few after.

Source of the variety: Hill 1973, "Diversity and Evenness", order 1 (the exponential of the Shannon
entropy is an effective number of classes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.errors import OptionError
from bn_ops.statistics import Float64Array

__all__ = ["PredictionSignals", "prediction_signals", "softmax"]

_CLASS_AXES = 2

# Fewer predictions than this have too little variety themselves to see it collapse.
_FEWEST_PREDICTIONS = 16

# Fewer than half of the effective classes left, counted over the same samples.
_COLLAPSE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSignals:
    """A classification head before and after, on the same samples.

    Attributes:
        samples: how many.
        agreement: share of samples whose most likely class is the same.
        entropy_change: mean entropy of the class probabilities, after minus before, in nats.
        variety_before, variety_after: effective number of predicted classes, 1 to the number of
            classes.
    """

    samples: int
    agreement: float
    entropy_change: float
    variety_before: float
    variety_after: float

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
    if before.ndim != _CLASS_AXES or shapes[0] != shapes[1] or 0 in shapes[0]:
        raise OptionError(f"two tables (N, K) of class probabilities are needed, got {shapes}")
    old, new = before.argmax(axis=1), after.argmax(axis=1)
    classes = before.shape[1]
    return PredictionSignals(
        samples=before.shape[0],
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
