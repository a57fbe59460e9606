"""Running two ONNX models on the same samples to see how their answers differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bn_ops.harm import prediction_signals, softmax
from bn_ops.report import PredictionReport
from bn_ops.reporting import prediction_report
from bn_ops.runtime import session
from bn_ops.signature import Batch
from bn_ops.statistics import Float64Array

if TYPE_CHECKING:
    import onnx

__all__ = ["compare_heads"]

_HEAD_RANK = 2
_FEWEST_CLASSES = 2

# How far a row of float32 probabilities may be from 1 before it is taken for logits.
_SUM_TOLERANCE = 1e-3


def compare_heads(
    before: onnx.ModelProto, after: onnx.ModelProto, batches: Iterable[Batch]
) -> PredictionReport | None:
    """Compare the classification head of a model before and after.

    Args:
        before: the source model, not changed.
        after: the recalibrated model, with the same inputs and outputs.
        batches: samples to predict; a few dozen are enough.

    Returns:
        None where no output looks like a head: a floating table (samples, classes).
    """
    kept = list(batches)
    samples = sum(next(iter(batch.values())).shape[0] for batch in kept)
    names = [output.name for output in before.graph.output]
    old, new = (_outputs(model, names, kept) for model in (before, after))
    for name, left, right in zip(names, old, new, strict=True):
        if _is_head(left, samples) and _is_head(right, samples):
            return prediction_report(
                name, prediction_signals(_probabilities(left), _probabilities(right))
            )
    return None


def _outputs(
    model: onnx.ModelProto, names: Sequence[str], batches: Sequence[Batch]
) -> list[list[NDArray[np.generic]]]:
    """The parts of each output, one per batch."""
    runner = session(model.SerializeToString())
    made = [runner.run(names, batch) for batch in batches]
    return [list(parts) for parts in zip(*made, strict=True)] or [[] for _ in names]


def _is_head(parts: Sequence[NDArray[np.generic]], samples: int) -> bool:
    # Outputs that are sequences or maps come as lists: they have no dtype.
    tables = all(
        getattr(part, "dtype", np.dtype(object)).kind == "f"
        and part.ndim == _HEAD_RANK
        and part.shape[1] >= _FEWEST_CLASSES
        for part in parts
    )
    return bool(parts) and tables and sum(part.shape[0] for part in parts) == samples


def _probabilities(parts: Sequence[NDArray[np.generic]]) -> Float64Array:
    table = np.concatenate(parts).astype(np.float64)
    sums = table.sum(axis=1)
    if (table >= 0).all() and (np.abs(sums - 1) <= _SUM_TOLERANCE).all():
        return table
    return softmax(table)
