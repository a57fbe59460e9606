"""What recalibration and adaptation return."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
import safetensors.numpy

from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.diagnostics.plot import plot_drift
from bn_ops.diagnostics.report import Report, Verdict
from bn_ops.errors import OptionError
from bn_ops.onnx_files.read_write import write_atomically, write_model

if TYPE_CHECKING:
    import onnx
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Artifact", "Recalibration", "encode_statistics"]

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

    def _repr_html_(self) -> str:
        return _summary_html(self, self.report)

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

    @property
    def report_html(self) -> str:
        """The report as an HTML page."""
        return _html(self.report)

    def _repr_html_(self) -> str:
        return _summary_html(self, self.report)

    def save_report(self, path: str | Path) -> None:
        """Write the report, as JSON if the name ends in `.json`, else as HTML, atomically."""
        if Path(path).suffix.lower() == ".json":
            form = json.dumps(self.report.to_json(), indent=2)
            write_atomically(Path(path), form.encode("utf-8") + b"\n")
        else:
            write_atomically(Path(path), self.report_html.encode("utf-8"))

    def save_statistics(self, path: str | Path) -> None:
        """Write the statistics as safetensors, atomically.

        The file holds `<layer>.running_mean` and `<layer>.running_var`, float64, shape (C,).
        """
        write_atomically(Path(path), encode_statistics(self.statistics))

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


def encode_statistics(statistics: Mapping[LayerName, RunningStatistics]) -> bytes:
    """Return statistics as safetensors; equal statistics give equal bytes."""
    tensors = {}
    for layer in sorted(statistics):
        tensors[f"{layer}.running_mean"] = np.ascontiguousarray(statistics[layer].mean)
        tensors[f"{layer}.running_var"] = np.ascontiguousarray(statistics[layer].var)
    return safetensors.numpy.save(tensors)


def _html(report: Report) -> str:
    from bn_ops.diagnostics.html import render_html  # noqa: PLC0415 - loads the templates

    return render_html(report)


def _summary_html(shown: object, report: Report) -> str:
    """Return a short summary with the report folded away, for notebooks."""
    verdict = report.verdict
    sentence = "no verdict" if verdict is None else f"{verdict.code}: {verdict.sentence}"
    page = html.escape(_html(report), quote=True)
    return (
        f"<p><code>{html.escape(repr(shown))}</code></p><p>{html.escape(sentence)}</p>"
        "<details><summary>Report</summary>"
        f'<iframe sandbox srcdoc="{page}" style="width:100%;height:70vh;border:0"></iframe>'
        "</details>"
    )


def _summary(report: Report) -> str:
    done = sum(layer.status == "recalibrated" for layer in report.layers)
    return (
        f"{done} of {len(report.layers)} layers recalibrated, {report.stream.samples} samples, "
        f"{len(report.warnings)} warnings"
    )
