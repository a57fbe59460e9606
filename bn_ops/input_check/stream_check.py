"""The check of samples that an engine has read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bn_ops.errors import InputMismatchError
from bn_ops.input_check.image_faults import planes_of
from bn_ops.input_check.judging import judge
from bn_ops.input_check.network_start import Arrays, NetworkStart
from bn_ops.input_check.ranking import Measure
from bn_ops.input_check.result import InputCheck
from bn_ops.input_check.sample_moments import SampleMoments

__all__ = ["MAX_SAMPLES", "check_start", "measure_images", "require_plausible"]

MAX_SAMPLES = 64
"""Samples that the check reads: the standard error of a channel's mean is then an eighth of the
spread between samples, far below every threshold."""


def check_start(start: NetworkStart, batches: Sequence[Arrays]) -> InputCheck:
    """Check samples that have been read already; see `check_input`. Never raises for findings."""
    moments = start.measure(batches)
    arrays = _only_input(batches)
    planes = None if arrays is None else planes_of(arrays)
    if arrays is None or planes is None:
        return judge(moments, None, None)
    name = next(iter(batches[0]))
    return judge(
        moments,
        planes,
        measure_images(start, name, arrays[0].dtype, channels_last=planes.channels_last),
    )


def require_plausible(check: InputCheck) -> None:
    """Raise where a check has found a fault.

    Raises:
        InputMismatchError: names the first finding, and counts the others.
    """
    if check.plausible:
        return
    first, *others = check.findings
    more = f" ({len(others)} more: {', '.join(o.cause for o in others)})" if others else ""
    raise InputMismatchError(
        f"the data does not look like what the model was trained on: {first.message}{more}; "
        f"{first.suggestion}. allow_mismatch=True (--allow-mismatch) continues all the same",
        distance=check.distance,
        threshold=check.threshold,
        cause=first.cause,
        suggestion=first.suggestion,
    )


def _only_input(batches: Sequence[Arrays]) -> list[NDArray[np.generic]] | None:
    """Return the arrays of the only input, or None where there are several."""
    if any(len(batch) != 1 for batch in batches):
        return None
    return [next(iter(batch.values())) for batch in batches]


def measure_images(
    start: NetworkStart, name: str, dtype: np.dtype[np.generic], *, channels_last: bool
) -> Measure:
    """Return what runs preprocessed planes through the first layers."""

    def measure(planes: NDArray[np.float32]) -> SampleMoments:
        arranged = planes.transpose(0, 2, 3, 1) if channels_last else planes
        if dtype.kind in "iu":
            limits = np.iinfo(dtype.name)
            arranged = np.clip(np.round(arranged), limits.min, limits.max)
        with np.errstate(over="ignore"):
            return start.measure([{name: np.ascontiguousarray(arranged, dtype=dtype)}])

    return measure
