"""The files that a run writes: checked before the work, written after it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bnrecal_client.cli.in_process import LocalResult
from bnrecal_client.errors import OptionError
from bnrecal_client.result import Result

__all__ = ["OutputFile", "Outputs", "check_folder", "check_output"]


# Suffixes by which other programs would read a new file as something else than ONNX.
_NOT_ONNX = frozenset(
    {".csv", ".html", ".json", ".npy", ".npz", ".pt", ".pt2", ".pth", ".safetensors", ".tflite"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """One written file.

    Attributes:
        kind: what it holds, such as `model` or `report html`.
        path: as the user gave it.
    """

    kind: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """The files to write; None for those that are not wanted."""

    model: Path
    unfolded: Path | None
    statistics: Path | None
    reports: tuple[Path, ...]

    def check(self, sources: Sequence[Path]) -> None:
        """Check that all files can be written and that none of them is a source.

        Args:
            sources: files that must not be overwritten; empty with `--force`.

        Raises:
            OptionError: a file cannot be written, is a source, or is named twice.
        """
        seen: set[Path] = set()
        for file in self._all():
            check_output(file.path, sources)
            misnamed = file.path.suffix.lower() in _NOT_ONNX and not file.path.exists()
            if misnamed and file.kind in {"model", "unfolded"}:
                raise OptionError(f"{file.path}: the model is written as ONNX, name it .onnx")
            if file.path.resolve() in seen:
                raise OptionError(f"two outputs have the same path {file.path}")
            seen.add(file.path.resolve())

    def write(self, result: Result | LocalResult, *, models: bool = True) -> tuple[OutputFile, ...]:
        """Write the files and return them; without `models`, only statistics and reports."""
        if models:
            result.save(self.model, force=True)
            if self.unfolded is not None:
                result.save_unfolded(self.unfolded, force=True)
        if self.statistics is not None:
            result.save_statistics(self.statistics)
        for report in self.reports:
            result.save_report(report)
        return tuple(self._all() if models else self._all_but_models())

    def models(self) -> tuple[OutputFile, ...]:
        """Return the model files among them."""
        return tuple(self._models())

    def _all(self) -> Iterator[OutputFile]:
        yield from self._models()
        yield from self._all_but_models()

    def _models(self) -> Iterator[OutputFile]:
        yield OutputFile(kind="model", path=self.model)
        if self.unfolded is not None:
            yield OutputFile(kind="unfolded", path=self.unfolded)

    def _all_but_models(self) -> Iterator[OutputFile]:
        if self.statistics is not None:
            yield OutputFile(kind="statistics", path=self.statistics)
        for report in self.reports:
            yield OutputFile(kind=f"report {report.suffix.lower().lstrip('.')}", path=report)


def check_output(path: Path, sources: Sequence[Path]) -> None:
    """Check that a file can be written at this path.

    Args:
        path: the path.
        sources: files that must not be overwritten.

    Raises:
        OptionError: it cannot, or the file is one of the sources.
    """
    if path.is_dir():
        raise OptionError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise OptionError(f"{path} cannot be written: there is no folder {path.parent}")
    check_folder(path.parent)
    for source in sources:
        if path.exists() and source.exists() and path.samefile(source):
            raise OptionError(
                f"{path} is an input of this command and would be overwritten: choose another "
                "name, or pass --force"
            )


def check_folder(folder: Path) -> None:
    """Check that files can be created in a folder, by creating one without a name.

    Permissions alone do not show it: /proc, a full quota or a remote mount refuses even root.

    Raises:
        OptionError: none can be created.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(f"the folder {folder} cannot be written to: {error.strerror}") from error
