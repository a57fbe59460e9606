"""Data files cut into batches, the same way whether they go to a server or stay in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnrecal_client.cli.data.array_files import Table, find_files, open_table

__all__ = ["DataSet", "open_data"]

# An array's place: its name, its position in a tuple, or "" for a file of one unnamed array. It
# keeps the file's own form until the model's input names are known to whoever takes the batch.
Place = str | int
Piece = Mapping[Place, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Data files as one stream of batches; iterating reads data when they are due.

    A batch is an array, a tuple or a dict, as its file holds them.

    Attributes:
        tables: the files, in order.
        batch_size: samples per batch; a batch is smaller only where the data end, or where the
            next file's samples have another shape or type.
        samples: how many of them are used.
    """

    tables: tuple[Table, ...]
    batch_size: int
    samples: int

    def __len__(self) -> int:
        """Return the number of batches, where all samples are alike."""
        return (self.samples + self.batch_size - 1) // self.batch_size

    def __iter__(self) -> Iterator[object]:
        pieces: list[Piece] = []
        for piece in self._pieces():
            if pieces and not _alike(pieces[0], piece):
                yield _joined(pieces)
                pieces.clear()
            yield from self._fill(pieces, piece)
        if pieces:
            yield _joined(pieces)

    def _fill(self, pieces: list[Piece], piece: Piece) -> Iterator[object]:
        """Add a piece to the open batch; yield each batch that it completes."""
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
            yield _slice(_placed(table.read()), 0, left)
            left -= table.samples


def open_data(paths: Sequence[Path], *, batch_size: int, limit: int | None) -> DataSet:
    """Find and open data files; reads headers only.

    Raises:
        InputError: nothing there, or a file is broken.
    """
    tables = tuple(open_table(path) for path in find_files(paths))
    held = sum(table.samples for table in tables)
    samples = held if limit is None else min(held, limit)
    return DataSet(tables=tables, batch_size=batch_size, samples=samples)


def _placed(found: object) -> Piece:
    if isinstance(found, Mapping):
        return {str(name): array for name, array in found.items()}
    if isinstance(found, tuple):
        return dict(enumerate(found))
    return {"": np.asarray(found)}


def _slice(piece: Piece, start: int, stop: int) -> Piece:
    return {place: array[start:stop] for place, array in piece.items()}


def _length(piece: Piece) -> int:
    return len(next(iter(piece.values())))


def _alike(left: Piece, right: Piece) -> bool:
    """Whether samples of both fit into one array without a change of type."""
    return left.keys() == right.keys() and all(
        array.shape[1:] == right[place].shape[1:] and array.dtype == right[place].dtype
        for place, array in left.items()
    )


def _joined(pieces: Sequence[Piece]) -> object:
    """Join pieces and give them their file's form back."""
    whole = {
        # One piece is passed on as it is mapped: joining would copy it.
        place: pieces[0][place] if len(pieces) == 1 else _concatenated(pieces, place)
        for place in pieces[0]
    }
    if "" in whole:
        return whole[""]
    return tuple(whole.values()) if 0 in whole else whole


def _concatenated(pieces: Sequence[Piece], place: Place) -> NDArray[np.generic]:
    return np.concatenate([piece[place] for piece in pieces])
