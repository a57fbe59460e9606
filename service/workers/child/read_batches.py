"""Stored batches as arrays: what a run computes on, and what a check reads before it says yes.

Both go through `BatchReader`, so whatever was acknowledged can be read again by the run.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bn_ops.core.signature import TensorInfo
from bn_ops.errors import OptionError
from bn_ops.preprocess import Preprocess, image_arrays, preprocess_from_json
from service.formats.registry import FORMATS, Arrays
from service.repositories.models import parse_inputs
from service.workers.messages import Piece, Spec


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
        known = FORMATS[kind]
        if known.arrays is not None:
            yield from known.arrays(file, [one.name for one in self.inputs], self.limit_bytes)
            return
        if self.preprocess is None:
            raise OptionError("the recalibration was opened without preprocess and takes no images")
        assert known.images is not None  # one of the two readers is set
        images = known.images(file, self.limit_bytes)
        for array in image_arrays(images, self.preprocess, batch=batch, formats=known.decoders):
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
