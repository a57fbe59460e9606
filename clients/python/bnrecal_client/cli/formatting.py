"""Tables, sizes and counts as text."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

__all__ = ["count", "file_size", "size", "table"]

_STEP = 1000.0


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int]) -> str:
    """Return rows as aligned columns.

    Args:
        head: the column titles.
        rows: one string per column each.
        right: indices of right-aligned columns.
    """
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def size(count_bytes: int) -> str:
    """Return a number of bytes with three digits."""
    value = float(count_bytes)
    for unit in ("B", "kB", "MB"):
        if value < _STEP:
            return f"{value:.3g} {unit}"
        value /= _STEP
    return f"{value:.3g} GB"


def file_size(path: Path) -> str:
    """Return the size of a file, including the external data files of a large model."""
    data = path.parent.glob(f"{glob.escape(path.name)}.*.data")
    return size(sum(file.stat().st_size for file in (path, *data)))


def count(number: int, noun: str) -> str:
    """Return a number with its noun: 1 layer, 2 layers, 3 batches."""
    plural = f"{noun}es" if noun.endswith("ch") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"
