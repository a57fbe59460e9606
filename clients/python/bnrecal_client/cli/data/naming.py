"""Errors about a batch, with the file that the batch or sample came from."""

from __future__ import annotations

import re

from bnrecal_client._encoding.samples import NOT_FINITE, first_not_finite
from bnrecal_client.cli.data.array_batches import DataSet, keyed
from bnrecal_client.cli.data.image_files import ImageSet
from bnrecal_client.errors import BatchError

__all__ = ["naming_the_file"]

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
