"""Read stored batches as arrays, for runs and validations.

Both use `BatchReader`, so a run can read every batch that was acknowledged.
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
from service.formats.layout import inputs_from_json
from service.formats.registry import FORMATS, Arrays
from service.workers.messages import StoredBatchRef, WorkerTask


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReader:
    """Reads batches of one recalibration.

    Attributes:
        inputs: inputs of the model.
        limit_bytes: maximum size of one batch after unpacking.
        preprocess: preprocessing of images; None if the recalibration accepts no images.
    """

    inputs: tuple[TensorInfo, ...]
    limit_bytes: int
    preprocess: Preprocess | None = None

    @staticmethod
    def of(task: WorkerTask) -> BatchReader:
        """Return the reader for a task."""
        form = task.options.get("preprocess")
        return BatchReader(
            inputs=inputs_from_json(task.inputs),
            limit_bytes=task.limits.batch_bytes,
            preprocess=None if form is None else preprocess_from_json(form),
        )

    def read(self, file: IO[bytes], kind: str, *, batch: int | None = None) -> Iterator[Arrays]:
        """Yield the arrays of one stored batch; images and Arrow may yield several parts.

        Args:
            file: seekable, positioned at its start.
            kind: name of its format.
            batch: its index, for messages.

        Raises:
            BatchMalformedError: it is not a file of this format.
            ImageError: an image cannot be used.
        """
        known = FORMATS[kind]
        if known.arrays is not None:
            yield from known.arrays(file, [one.name for one in self.inputs], self.limit_bytes)
            return
        if self.preprocess is None:
            raise OptionError(
                "the recalibration was created without preprocess and accepts no images"
            )
        assert known.images is not None  # one of the two readers is set
        images = known.images(file, self.limit_bytes)
        for array in image_arrays(images, self.preprocess, batch=batch, formats=known.decoders):
            yield {self.inputs[0].name: array}


def read_batches(
    folder: Path, batches: Sequence[StoredBatchRef], reader: BatchReader, *, first: int = 0
) -> Iterator[Arrays]:
    """Yield stored batches one by one.

    Args:
        folder: folder of their files.
        batches: references in stream order.
        reader: reader for the model's inputs.
        first: index of the first one in the stream, for messages.
    """
    for index, batch in enumerate(batches, first):
        with _open(folder, batch) as file:
            yield from reader.read(file, batch.format, batch=index)


def _open(folder: Path, batch: StoredBatchRef) -> IO[bytes]:
    file = (folder / batch.name).open("rb")
    if batch.start is None:
        return file
    with file:  # batches in packs are small
        file.seek(batch.start)
        return io.BytesIO(file.read(batch.bytes))
