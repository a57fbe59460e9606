"""The files of a data folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("models", "recalibrations")


def present_files(folder: Path) -> Iterator[str]:
    """Yield the keys of all blobs in a data folder."""
    for name in FOLDERS:
        for path in (folder / name).rglob("*"):
            if not path.is_dir():
                yield path.relative_to(folder).as_posix()
