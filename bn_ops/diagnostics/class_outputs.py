"""The class probabilities that a network computes: of a classification head, or of a score map."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import is_floating
from bn_ops.core.statistics import Float64Array

__all__ = [
    "ClassOutput",
    "class_output",
    "class_scores",
    "has_classes",
    "probabilities_of",
    "softmax",
]

_TABLE_RANK = 2
_MIN_CLASSES = 2

# Positions of a score map that are read per sample, at most.
_MAX_POSITIONS = 16

# How far a row of float32 probabilities may be from summing to 1 before it is treated as logits.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassOutput:
    """Class probabilities of one output.

    Attributes:
        name: the output.
        probabilities: shape (n, P, K): samples, positions, classes.
        per_position: whether the output is a score map; else P = 1.
    """

    name: str
    probabilities: Float64Array
    per_position: bool


def has_classes(array: NDArray[np.generic]) -> bool:
    """Return whether an output could hold class scores: floating, (N, K, ...) with K ≥ 2."""
    return (
        array.ndim >= _TABLE_RANK
        and array.shape[1] >= _MIN_CLASSES
        and 0 not in array.shape
        and is_floating(array.dtype)
    )


def class_scores(array: NDArray[np.generic]) -> Float64Array:
    """Return the scores of an output at a fixed grid of positions.

    Args:
        array: an output with classes, (N, K) or (N, K, *spatial).

    Returns:
        (N, P, K) float64, P = 1 for a table, else at most 16.
    """
    axes = array.ndim - _TABLE_RANK
    picked = array
    if axes:
        per_axis = max(1, math.floor(_MAX_POSITIONS ** (1 / axes) + 1e-9))
        for axis, size in enumerate(array.shape[_TABLE_RANK:], start=_TABLE_RANK):
            count = min(per_axis, size)
            centers = (2 * np.arange(count) + 1) * size // (2 * count)
            picked = np.take(picked, centers, axis=axis)
    rows = picked.reshape(*array.shape[:_TABLE_RANK], -1).astype(np.float64)
    scores: Float64Array = rows.transpose(0, 2, 1)
    return scores


def class_output(
    name: str, scores: Float64Array | None, *, samples: int, per_position: bool
) -> ClassOutput | None:
    """Return the probabilities of collected scores; None unless they are usable.

    Args:
        name: the output.
        scores: (n, P, K).
        samples: number of samples that were run.
        per_position: whether the output is a score map.
    """
    if scores is None or scores.shape[0] != samples or not samples or not np.isfinite(scores).all():
        return None
    return ClassOutput(name=name, probabilities=probabilities_of(scores), per_position=per_position)


def probabilities_of(scores: Float64Array) -> Float64Array:
    """Return scores as probabilities over the last axis: their softmax unless they are already."""
    sums = scores.sum(axis=-1)
    if (scores >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all():
        return scores
    return softmax(scores)


def softmax(logits: NDArray[np.floating]) -> Float64Array:
    """Return the softmax over the last axis, float64; safe for any magnitude."""
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    probabilities: Float64Array = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities
