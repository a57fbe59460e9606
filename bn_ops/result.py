"""What recalibration and adaptation return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.diagnostics.plot import plot_drift
from bn_ops.diagnostics.report import Report, Verdict
from bn_ops.errors import OptionError
from bn_ops.onnx_files.read_write import write_model

if TYPE_CHECKING:
    import onnx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Artifact", "Recalibration"]

ModelT = TypeVar("ModelT")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Recalibration(Generic[ModelT]):
    """A recalibrated model and its report.

    Attributes:
        model: the module itself (torch: modified in place) or a new ModelProto (ONNX: the caller's
            model is unchanged).
        statistics: the new running statistics of each recalibrated layer, float64.
        report: what was done.
        calibration: the first samples of the stream, kept for verification.
    """

    model: ModelT
    statistics: Mapping[LayerName, RunningStatistics]
    report: Report
    calibration: tuple[Batch, ...] = ()
    _restore: Callable[[], None] = field(default=lambda: None)

    def __repr__(self) -> str:
        return f"Recalibration({type(self.model).__name__}, {_summary(self.report)})"

    @property
    def verdict(self) -> Verdict | None:
        """Whether the model should be deployed; None where the models were not compared."""
        return self.report.verdict

    def plot(self, axes: Axes | None = None) -> Figure:
        """Draw the drift by layer with matplotlib; see `bn_ops.plot_drift`."""
        return plot_drift(self.report, axes)

    def undo(self) -> None:
        """Restore a module's previous statistics bit for bit; does nothing for an ONNX model."""
        self._restore()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Artifact:
    """A model that is ready to deploy, and the report that proves it.

    Attributes:
        model: the recalibrated, folded, verified ONNX model.
        unfolded: the recalibrated ONNX model with its BatchNormalization nodes.
        statistics: the new running statistics of each recalibrated layer, float64.
        report: what was done.
        source_path: the file of the source model; None if it did not come from a file.
    """

    model: onnx.ModelProto
    unfolded: onnx.ModelProto
    statistics: Mapping[LayerName, RunningStatistics]
    report: Report
    source_path: Path | None = None

    def __repr__(self) -> str:
        parity = self.report.parity
        verified = parity is not None and parity.passed
        return f"Artifact({_summary(self.report)}, {'verified' if verified else 'not verified'})"

    @property
    def verdict(self) -> Verdict | None:
        """Whether the model should be deployed; None where the models were not compared."""
        return self.report.verdict

    def plot(self, axes: Axes | None = None) -> Figure:
        """Draw the drift by layer with matplotlib; see `bn_ops.plot_drift`."""
        return plot_drift(self.report, axes)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the folded model to a file, atomically and durably.

        The tensors of a model above 2 GiB are written to an external data file next to it; see
        `bn_ops.onnx_files.read_write`.

        Args:
            path: the file.
            force: overwrite even the source model, whose BatchNorm is then lost.

        Raises:
            OptionError: the path names the source model, and `force` is False.
            OSError: the file cannot be written; an existing file is unchanged.
        """
        self._write(self.model, Path(path), force=force)

    def save_unfolded(self, path: str | Path, *, force: bool = False) -> None:
        """Write the unfolded model in the same way."""
        self._write(self.unfolded, Path(path), force=force)

    def _write(self, model: onnx.ModelProto, path: Path, *, force: bool) -> None:
        if not force and self._is_source(path):
            raise OptionError(
                f"{path} is the source model and would be overwritten: choose another name, or "
                "pass force=True"
            )
        write_model(model, path)

    def _is_source(self, path: Path) -> bool:
        source = self.source_path
        return source is not None and source.exists() and path.exists() and path.samefile(source)


def _summary(report: Report) -> str:
    done = sum(layer.status == "recalibrated" for layer in report.layers)
    return (
        f"{done} of {len(report.layers)} layers recalibrated, {report.stream.samples} samples, "
        f"{len(report.warnings)} warnings"
    )
