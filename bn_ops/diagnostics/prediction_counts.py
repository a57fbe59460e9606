"""How the answers of a classification head changed between two trials of a network."""

from __future__ import annotations

import numpy as np

from bn_ops.core.statistics import Float64Array
from bn_ops.diagnostics.build_report import prediction_report
from bn_ops.diagnostics.forward_trial import Trial
from bn_ops.diagnostics.predictions import prediction_signals, softmax
from bn_ops.diagnostics.report import PredictionReport

__all__ = ["compare_heads"]

# How far a row of float32 probabilities may be from 1 before it is taken for logits.
_SUM_TOLERANCE = 1e-3


def compare_heads(before: Trial, after: Trial, *, samples: int) -> PredictionReport | None:
    """Compare the classification head of a network before and after.

    Args:
        before: the network with the source statistics.
        after: with the new ones, on the same samples.
        samples: how many these are.

    Returns:
        None where no output looks like a head: a floating table (samples, classes) of finite
        numbers. The first that does is taken.
    """
    for name, left in before.tables.items():
        right = after.tables.get(name)
        if right is not None and _fit(left, samples) and _fit(right, samples):
            return prediction_report(
                name, prediction_signals(_probabilities(left), _probabilities(right))
            )
    return None


def _fit(table: Float64Array, samples: int) -> bool:
    return samples > 0 and table.shape[0] == samples and bool(np.isfinite(table).all())


def _probabilities(table: Float64Array) -> Float64Array:
    sums = table.sum(axis=1)
    if (table >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all():
        return table
    return softmax(table)
