"""Stored batches as arrays, read with the code that checked them when they came in."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from service.errors import BatchMalformedError
from service.formats.dtypes import BFLOAT16
from service.formats.safetensors import SafetensorsHeader

Arrays = dict[str, NDArray[Any]]


def read_batches(
    folder: Path, files: Sequence[tuple[str, str]], inputs: Sequence[str]
) -> Iterator[Arrays]:
    """Yield stored batches one by one.

    Args:
        folder: where they lie.
        files: name and format of each, in the order of the stream.
        inputs: the model's input names.
    """
    for name, kind in files:
        with (folder / name).open("rb") as file:
            if kind == "npy":
                yield {inputs[0]: _read_npy(file)}
            else:
                yield _read_safetensors(file)


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
