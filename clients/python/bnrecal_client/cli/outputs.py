"""The files that a run writes: checked before the work, written after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bnrecal_client.cli.in_process import LocalResult
from bnrecal_client.errors import OptionError
from bnrecal_client.result import Result

__all__ = ["Outputs", "check_writable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """Where things go; None where they are not wanted."""

    model: Path
    unfolded: Path | None
    statistics: Path | None
    reports: tuple[Path, ...]

    def check(self) -> None:
        """Notice before the work what would fail after it.

        Raises:
            OptionError: a file cannot be written, or two are the same.
        """
        seen: set[Path] = set()
        for _, path in self._all():
            check_writable(path)
            if path.resolve() in seen:
                raise OptionError(f"two outputs would go to {path}")
            seen.add(path.resolve())

    def write(self, result: Result | LocalResult) -> dict[str, str]:
        """Write everything; return kind → path as the caller gave it."""
        result.save(self.model)
        if self.unfolded is not None:
            result.save_unfolded(self.unfolded)
        if self.statistics is not None:
            result.save_statistics(self.statistics)
        for report in self.reports:
            result.save_report(report)
        return {kind: str(path) for kind, path in self._all()}

    def _all(self) -> Iterator[tuple[str, Path]]:
        yield "model", self.model
        if self.unfolded is not None:
            yield "unfolded", self.unfolded
        if self.statistics is not None:
            yield "statistics", self.statistics
        for report in self.reports:
            yield f"report {report.suffix.lower().lstrip('.')}", report


def check_writable(path: Path) -> None:
    """Check that a file can be put there.

    Raises:
        OptionError: it cannot.
    """
    if path.is_dir():
        raise OptionError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise OptionError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise OptionError(f"{path} cannot be written: the folder {path.parent} is read-only")
