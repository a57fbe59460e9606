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

from bn_ops.core.signature import TensorInfo
from bn_ops.errors import OptionError
from bn_ops.preprocess import Preprocess, image_arrays, images, preprocess_from_json
from service.errors import BatchMalformedError
from service.formats import pictures, tars, zips
from service.formats.dtypes import BFLOAT16
from service.formats.npz import read_npz
from service.formats.safetensors import SafetensorsHeader
from service.repositories.models import parse_inputs
from service.workers.messages import Piece, Spec

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReader:
    """Reads batches of one recalibration.

    Attributes:
        inputs: what the model takes.
        limit_bytes: most bytes that one batch may unpack to.
        preprocess: what is done to images; None where the recalibration takes none.
    """

    inputs: tuple[TensorInfo, ...]
    limit_bytes: int
    preprocess: Preprocess | None = None

    @staticmethod
    def of(spec: Spec) -> BatchReader:
        """Build the reader that a job describes."""
        form = spec.options.get("preprocess")
        return BatchReader(
            inputs=parse_inputs(spec.inputs),
            limit_bytes=spec.limits.batch_bytes,
            preprocess=None if form is None else preprocess_from_json(form),
        )

    def read(self, file: IO[bytes], kind: str, *, batch: int | None = None) -> Iterator[Arrays]:
        """Yield the arrays of one stored batch; images and Arrow may give several parts.

        Args:
            file: seekable, at its start.
            kind: its format, as the ledger names it.
            batch: its index, for messages.

        Raises:
            BatchMalformedError: it is no file of this format.
            ImageError: it holds an image that cannot be used.
        """
        names = [one.name for one in self.inputs]
        if kind == "npy":
            yield {names[0]: _read_npy(file)}
        elif kind == "npz":
            yield read_npz(file, names, limit_bytes=self.limit_bytes)
        elif kind == "safetensors":
            yield _read_safetensors(file)
        elif kind == "arrow":
            from service.formats.arrow import read_arrow  # noqa: PLC0415 - optional, and heavy

            yield from read_arrow(file, limit_bytes=self.limit_bytes)
        else:
            yield from self._images(file, kind, batch)

    def _images(self, file: IO[bytes], kind: str, batch: int | None) -> Iterator[Arrays]:
        if self.preprocess is None:
            raise OptionError("the recalibration was opened without preprocess and takes no images")
        formats: tuple[str, ...] = images.FORMATS
        if kind == "zip":
            found = pictures.images(zips.members(file, limit_bytes=self.limit_bytes))
        elif kind == "tar":
            found = pictures.images(tars.members(file, limit_bytes=self.limit_bytes))
        else:
            formats = (pictures.FORMATS[kind],)
            found = iter([(kind, file.read())])
        for array in image_arrays(found, self.preprocess, batch=batch, formats=formats):
            yield {self.inputs[0].name: array}


def read_batches(folder: Path, pieces: Sequence[Piece], reader: BatchReader) -> Iterator[Arrays]:
    """Yield stored batches one by one.

    Args:
        folder: where they lie.
        pieces: where each lies, in the order of the stream.
        reader: knows the model's inputs.
    """
    for index, piece in enumerate(pieces):
        with _opened(folder, piece) as file:
            yield from reader.read(file, piece.format, batch=index)


def _opened(folder: Path, piece: Piece) -> IO[bytes]:
    file = (folder / piece.name).open("rb")
    if piece.start is None:
        return file
    with file:  # a piece of a pack is small
        file.seek(piece.start)
        return io.BytesIO(file.read(piece.bytes))


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
