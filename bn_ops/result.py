"""What a recalibration returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.diagnostics.report import Report

__all__ = ["Recalibration"]

ModelT = TypeVar("ModelT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration(Generic[ModelT]):
    """A recalibrated model with its proof.

    Attributes:
        model: the module itself (torch: changed in place) or a new ModelProto (ONNX: the caller's
            is untouched).
        statistics: the new running statistics of each recalibrated layer, float64.
        report: what was done.
        calibration: the first samples of the stream, kept to verify with.
    """

    model: ModelT
    statistics: Mapping[LayerName, RunningStatistics]
    report: Report
    calibration: tuple[Batch, ...] = ()
    _restore: Callable[[], None] = field(default=lambda: None, repr=False)

    def undo(self) -> None:
        """Put back, bit for bit, what a module held before; an ONNX model was never changed."""
        self._restore()
