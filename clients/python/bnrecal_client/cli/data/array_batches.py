"""Data files split into batches, for a server or this process; and errors that name the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnrecal_client._encoding.samples import NOT_FINITE, SampleFilter, first_not_finite
from bnrecal_client.cli.data.array_files import Table, find_files, open_table
from bnrecal_client.cli.data.folders import SampleFiles, sample_name
from bnrecal_client.cli.data.image_files import ImageSet
from bnrecal_client.errors import BatchError

__all__ = ["DataSet", "keyed", "naming_the_file", "open_data", "unkeyed"]

# The key of an array: its name, its position in a tuple, or "" for a file of one unnamed array. It
# keeps the file's own form until the model's input names are known.
Key = str | int
Piece = Mapping[Key, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet(SampleFiles):
    """Data files as one stream of batches, read while iterating.

    A batch is an array, a tuple or a dict, like the content of its file.

    Attributes:
        tables: the files, in order. A batch before a file whose samples have another shape or type
            may be smaller than the others.
    """

    tables: tuple[Table, ...]

    @property
    def files(self) -> int:
        """Number of data files."""
        return len(self.tables)

    def name_of(self, sample: int) -> str:
        """Return the file of a sample, and its place in it if there are several."""
        return sample_name(self.tables, sample, "sample")

    def __iter__(self) -> Iterator[object]:
        if self.bad is None:
            yield from self._batches()
            return
        self.bad.restart()
        for batch in self._batches():
            good = self.bad.arrays(keyed(batch))
            if _length(good):
                yield unkeyed(good)

    def _batches(self) -> Iterator[object]:
        pieces: list[Piece] = []
        for piece in self._pieces():
            if pieces and not _alike(pieces[0], piece):
                yield _joined(pieces)
                pieces.clear()
            yield from self._fill(pieces, piece)
        if pieces:
            yield _joined(pieces)

    def _fill(self, pieces: list[Piece], piece: Piece) -> Iterator[object]:
        """Add a piece to the current batch; yield each batch that it completes."""
        start, length = 0, _length(piece)
        while start < length:
            room = self.batch_size - sum(map(_length, pieces))
            pieces.append(_slice(piece, start, start + room))
            start += room
            if sum(map(_length, pieces)) == self.batch_size:
                yield _joined(pieces)
                pieces.clear()

    def _pieces(self) -> Iterator[Piece]:
        left = self.samples
        for table in self.tables:
            if left <= 0:
                return
            yield _slice(keyed(table.read()), 0, left)
            left -= table.samples


def open_data(
    paths: Sequence[Path],
    *,
    batch_size: int,
    limit: int | None,
    bad: SampleFilter | None = None,
) -> DataSet:
    """Return the data files of some paths as a stream; only headers are read.

    Args:
        paths: files and folders.
        batch_size: samples per batch.
        limit: most samples to use; None for all.
        bad: leaves bad samples out; None to keep every sample.

    Raises:
        InputError: there is no data file, or a file is damaged.
    """
    found = find_files(paths)
    tables = tuple(open_table(path) for path in found.paths)
    held = sum(table.samples for table in tables)
    samples = held if limit is None else min(held, limit)
    return DataSet(
        tables=tables, batch_size=batch_size, samples=samples, ignored=found.ignored, bad=bad
    )


def keyed(found: object) -> Piece:
    """Return the arrays of a batch or file by key: name, position in a tuple, or ""."""
    if isinstance(found, Mapping):
        return {str(name): array for name, array in found.items()}
    if isinstance(found, tuple):
        return dict(enumerate(found))
    return {"": np.asarray(found)}


def _slice(piece: Piece, start: int, stop: int) -> Piece:
    return {key: array[start:stop] for key, array in piece.items()}


def _length(piece: Piece) -> int:
    return len(next(iter(piece.values())))


def _alike(left: Piece, right: Piece) -> bool:
    """Return whether samples of both fit into one array without a change of type."""
    return left.keys() == right.keys() and all(
        array.shape[1:] == right[key].shape[1:] and array.dtype == right[key].dtype
        for key, array in left.items()
    )


def _joined(pieces: Sequence[Piece]) -> object:
    """Return joined pieces in the form of their file."""
    whole = {
        # A single piece stays memory-mapped: joining would copy it.
        key: pieces[0][key] if len(pieces) == 1 else _concatenated(pieces, key)
        for key in pieces[0]
    }
    return unkeyed(whole)


def unkeyed(whole: Piece) -> object:
    """Return arrays by key in the form of their file; the inverse of `keyed`."""
    if "" in whole:
        return whole[""]
    return tuple(whole.values()) if 0 in whole else dict(whole)


def _concatenated(pieces: Sequence[Piece], key: Key) -> NDArray[np.generic]:
    return np.concatenate([piece[key] for piece in pieces])


_MEMBER = re.compile(r"'(\d{6})-[^']*'")
"""An image in an archive that `Images.packed` wrote, as a message names it."""


def naming_the_file(error: BatchError, data: DataSet | ImageSet) -> BatchError:
    """Return the error with the file, and the sample where it is known.

    Args:
        error: about a batch of `data`, from a server or from this process.
        data: what was recalibrated on; an error about arrays reads it again, up to the batch.
    """
    if isinstance(data, ImageSet):
        return _named(error, _image_message(error, data), error.sample)
    sample, first = _place(error, data)
    if sample is not None:
        message = (
            f"{data.name_of(sample)}: input {error.input!r} holds NaN or Inf; remove or repair the "
            "sample, or leave bad samples out with --skip-bad"
        )
        return _named(error, message, sample)
    if first is None or len(data.tables) == 1:
        return error
    return _named(error, f"{data.name_of(first)} and following: {error.message}", None)


def _place(error: BatchError, data: DataSet) -> tuple[int | None, int | None]:
    """Return the index of the bad sample and of the batch's first sample, where known."""
    if error.sample is not None:
        return error.sample, None
    first = 0
    for number, batch in enumerate(data):
        arrays = keyed(batch)
        if number == error.batch:
            place = first_not_finite(arrays) if error.code == NOT_FINITE else None
            return None if place is None else first + place, first
        first += len(next(iter(arrays.values())))
    return None, None


def _image_message(error: BatchError, data: ImageSet) -> str:
    message = error.message
    member = _MEMBER.search(message)
    if member is not None and error.batch is not None and data.bad is None:
        name = data.name_of(error.batch * data.batch_size + int(member[1]))
        message = message.replace(member[0], repr(name))
    hint = "; --skip-bad leaves such images out" if error.code == "image-invalid" else ""
    return message + hint


def _named(error: BatchError, message: str, sample: int | None) -> BatchError:
    return BatchError(
        message,
        batch=error.batch,
        sample=sample,
        input_name=error.input,
        code=error.code,
        problem=error.problem,
        recalibration_id=error.recalibration_id,
    )
