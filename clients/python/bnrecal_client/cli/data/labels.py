"""Labels of the first samples of the data, to compare the error before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnrecal_client.cli.data.array_batches import open_data
from bnrecal_client.cli.data.array_files import open_table
from bnrecal_client.errors import InputError

__all__ = ["labeled"]


def labeled(
    data: Sequence[Path], labels: Path, *, batch_size: int
) -> Iterator[tuple[object, np.ndarray[Any, Any]]]:
    """Yield the first samples of some data files with their labels, batch by batch.

    Raises:
        InputError: the labels are not a single array, or outnumber the samples.
    """
    known = open_table(_existing(labels)).read()
    if not isinstance(known, np.ndarray) or known.ndim == 0:
        raise InputError(f"{labels} is not a single array with one label per sample")
    found = open_data(data, batch_size=batch_size, limit=len(known))
    if found.samples < len(known):
        raise InputError(f"{labels} has {len(known)} labels, the data only {found.samples} samples")
    start = 0
    for batch in found:
        stop = start + _samples(batch)
        yield batch, known[start:stop]
        start = stop


def _existing(path: Path) -> Path:
    if path.suffix != ".npy" or not path.is_file():
        raise InputError(f"there is no .npy file of labels {path}")
    return path


def _samples(batch: object) -> int:
    if isinstance(batch, Mapping):
        return len(next(iter(batch.values())))
    return len(batch[0] if isinstance(batch, tuple) else np.asarray(batch))
