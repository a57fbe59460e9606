"""Results of a recalibration, the same from a server and from this process, and their files."""

from __future__ import annotations

import html
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

import msgspec
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from bnrecal_client.errors import OptionError, UnexpectedResponseError
from bnrecal_client.models import SkippedSample, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bnrecal_client.report import Report

__all__ = [
    "Outcome",
    "Result",
    "Statistics",
    "decode_statistics",
    "encode_statistics",
    "write_atomic",
]

Statistics = Mapping[str, NDArray[np.float64]]
"""`<layer>.running_mean` and `<layer>.running_var`, float64, shape (C,)."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Outcome:
    """Results of a recalibration except its models.

    Attributes:
        recalibration_id: its id at the server; None for a run in this process.
        report: the report's JSON form.
        report_html: the same report as an HTML page.
        statistics: the new running statistics by name.
        source: the file of the source model, which `save` does not overwrite; None if unknown.
        skipped: samples that were left out because they are bad.
    """

    recalibration_id: str | None
    report: Report
    report_html: str
    statistics: Statistics
    source: Path | None = None
    skipped: tuple[SkippedSample, ...] = ()

    @property
    def verdict(self) -> Verdict | None:
        """Whether to deploy the model; None in a report of a server that does not judge it."""
        try:
            return msgspec.convert(self.report.get("verdict"), Verdict | None)
        except msgspec.ValidationError:
            return None

    def _repr_html_(self) -> str:
        """Return a short summary with the report folded away, for notebooks."""
        verdict = self.verdict
        sentence = "no verdict" if verdict is None else f"{verdict.code}: {verdict.sentence}"
        page = html.escape(self.report_html, quote=True)
        return (
            f"<p><code>{html.escape(repr(self))}</code></p><p>{html.escape(sentence)}</p>"
            "<details><summary>Report</summary>"
            f'<iframe sandbox srcdoc="{page}" style="width:100%;height:70vh;border:0"></iframe>'
            "</details>"
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._described}>"

    @property
    def _described(self) -> str:
        """What it is about, in one line."""
        name = "in process" if self.recalibration_id is None else self.recalibration_id
        verdict = "" if self.verdict is None else f"{self.verdict.code}, "
        return f"{name}: {verdict}statistics of {len(self.statistics) // 2} layers"

    def completed(self, *, source: Path | None, skipped: Sequence[SkippedSample]) -> Self:
        """Return the result with the source model's file, and the samples that were left out."""
        found = replace(self, source=source)
        return found.with_skipped(skipped) if skipped else found

    def with_skipped(self, skipped: Sequence[SkippedSample]) -> Self:
        """Return the result with the samples that were left out, also listed in the report."""
        report: Report = {**self.report, "skipped_samples": msgspec.to_builtins(list(skipped))}
        return replace(self, skipped=tuple(skipped), report=report)

    def plot(self, axes: Axes | None = None) -> Figure:
        """Draw the drift by layer; needs `bn_ops` and matplotlib.

        Args:
            axes: where to draw; None for a new figure.

        Raises:
            OptionError: one of them is not installed.
        """
        from bnrecal_client._library import plot_report  # noqa: PLC0415 - imports this module

        figure: Figure = plot_report(self.report, axes)
        return figure

    def save_statistics(self, path: str | os.PathLike[str]) -> Path:
        """Write the statistics as safetensors, atomically."""
        return write_atomic(path, encode_statistics(self.statistics))

    def save_report(self, path: str | os.PathLike[str]) -> Path:
        """Write the report, as JSON if the name ends in `.json`, else as HTML, atomically."""
        if Path(path).suffix.lower() == ".json":
            return write_atomic(path, json.dumps(self.report, indent=2).encode("utf-8") + b"\n")
        return write_atomic(path, self.report_html.encode("utf-8"))

    def require_not_source(self, path: str | os.PathLike[str]) -> None:
        """Check that a path does not name the source model.

        Raises:
            OptionError: the path is the source model.
        """
        target = Path(path)
        if self.source is None or not (target.exists() and self.source.exists()):
            return
        if target.samefile(self.source):
            raise OptionError(
                f"{target} is the source model and would be overwritten: choose another name, or "
                "pass force=True"
            )


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Result(Outcome):
    """One finished recalibration.

    Attributes:
        model: the recalibrated, folded, verified ONNX file.
        unfolded: the recalibrated ONNX file with its BatchNorm kept, where requested.
    """

    model: bytes
    unfolded: bytes | None

    def __repr__(self) -> str:
        return f"<Result {self._described}, model of {len(self.model):,} bytes>"

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the folded model, atomically.

        Raises:
            OptionError: the path names the source model, and `force` is False.
        """
        if not force:
            self.require_not_source(path)
        return write_atomic(path, self.model)

    def save_unfolded(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the model with its BatchNorm kept, atomically.

        Raises:
            OptionError: it was not fetched, or the path is the source model and `force` is False.
        """
        if self.unfolded is None:
            raise OptionError("the unfolded model was not fetched: pass unfolded=True")
        if not force:
            self.require_not_source(path)
        return write_atomic(path, self.unfolded)


def decode_statistics(body: bytes) -> Statistics:
    """Return the statistics in a safetensors body.

    Raises:
        UnexpectedResponseError: the bytes are not safetensors.
    """
    try:
        return MappingProxyType(safetensors.numpy.load(body))
    except SafetensorError as error:
        raise UnexpectedResponseError(f"the statistics cannot be read: {error}") from error


def encode_statistics(statistics: Statistics) -> bytes:
    """Return statistics as safetensors; equal statistics give equal bytes."""
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(statistics[name]) for name in sorted(statistics)}
    )


def write_atomic(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file so that a reader, even after a power cut, sees the old or the new content.

    The temporary file is in the target's folder, because a rename is atomic only within one file
    system. It is flushed to disk before the rename; otherwise a power cut could leave an empty
    file under the final name.

    Returns:
        The path written.

    Raises:
        OSError: from the file system; the target is unchanged, and no temporary file remains.
    """
    target = Path(path)
    temporary, handle = _create(target)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if target.exists():
                os.fchmod(file.fileno(), target.stat().st_mode & 0o777)
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename != str(target):
            # Writing names no file, and renaming the temporary one.
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    _sync_folder(target.parent)
    return target


def _create(target: Path) -> tuple[Path, int]:
    """Create a temporary file with the permissions that `open` gives a new file."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
        try:
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            continue
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(target)) from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
