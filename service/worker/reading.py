"""Stored batches as arrays: what a run computes on, and what a check reads before it says yes.

Both go through `BatchReader`, so whatever was acknowledged can be read again by the run.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bn_ops.signature import TensorInfo
from service.errors import BatchMalformedError
from service.formats.dtypes import BFLOAT16
from service.formats.npz import read_npz
from service.formats.safetensors import SafetensorsHeader

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReader:
    """Reads batches of one recalibration.

    Attributes:
        inputs: what the model takes.
        limit_bytes: most bytes that one batch may unpack to.
    """

    inputs: tuple[TensorInfo, ...]
    limit_bytes: int

    def read(self, file: IO[bytes], kind: str) -> Iterator[Arrays]:
        """Yield the arrays of one stored batch.

        Args:
            file: seekable, at its start.
            kind: its format, as the ledger names it.

        Raises:
            BatchMalformedError: it is no file of this format.
        """
        names = [one.name for one in self.inputs]
        if kind == "npy":
            yield {names[0]: _read_npy(file)}
        elif kind == "npz":
            yield read_npz(file, names, limit_bytes=self.limit_bytes)
        else:
            yield _read_safetensors(file)


def read_batches(
    folder: Path, files: Sequence[tuple[str, str]], reader: BatchReader
) -> Iterator[Arrays]:
    """Yield stored batches one by one.

    Args:
        folder: where they lie.
        files: name and format of each, in the order of the stream.
        reader: knows the model's inputs.
    """
    for name, kind in files:
        with (folder / name).open("rb") as file:
            yield from reader.read(file, kind)


def _read_npy(file: IO[bytes]) -> NDArray[Any]:
    array: NDArray[Any] = np.load(file, allow_pickle=False)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _read_safetensors(file: IO[bytes]) -> Arrays:
    """Read each array into its own memory: the format does not align them, the runtime must."""
    reader = SafetensorsHeader()
    layout = None
    begin = 0
    while layout is None:
        chunk = file.read(io.DEFAULT_BUFFER_SIZE)
        if not chunk:
            raise BatchMalformedError("a stored batch has lost its header")
        layout, used = reader.feed(memoryview(chunk))
        begin += used
    file.seek(begin)
    arrays: Arrays = {}
    for segment in layout.segments:
        header = layout.headers[segment.name]
        dtype = np.dtype(ml_dtypes.bfloat16 if segment.dtype == BFLOAT16 else segment.dtype)
        content = file.read(segment.length)
        arrays[segment.name] = np.frombuffer(bytearray(content), dtype).reshape(header.shape)
    return arrays
