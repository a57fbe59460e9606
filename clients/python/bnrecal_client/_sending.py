"""Sending the batches of one recalibration, several at a time, except those already stored."""

from __future__ import annotations

from functools import partial

from bnrecal_client._concurrency import ConcurrentUploads
from bnrecal_client._encoding.batch_source import BatchSource
from bnrecal_client._encoding.batches import EncodedBatch
from bnrecal_client._encoding.samples import naming_the_sample
from bnrecal_client._http.session import Session, StoredBatches
from bnrecal_client.errors import BatchError, ConflictError, InputError
from bnrecal_client.models import Progress, StoredBatch

__all__ = ["send_all"]


async def send_all(
    session: Session,
    recalibration_id: str,
    source: BatchSource,
    inputs: tuple[str, ...],
    *,
    resumed: bool,
) -> int:
    """Send every batch that the server does not store; return the number of batches in the stream.

    At most `source.connections` batches are in memory.

    Raises:
        InputError: the stream is empty, or a batch is invalid.
        ConflictError: the server stores a different batch under an index.
    """
    total = await source.length()
    stored = 0

    async def count(change: int) -> None:
        nonlocal stored
        stored += change
        await session.notify(Progress(phase="sending", done=stored, total=total))

    async def upload(index: int, batch: EncodedBatch, first: int) -> None:
        try:
            await session.put_batch(recalibration_id, index, batch, pause=uploads.pause)
        except BatchError as error:
            raise naming_the_sample(error, batch, first=first) from error
        await count(1)

    known = StoredBatches(session, recalibration_id) if resumed else None
    index, samples = 0, 0
    await count(0)
    async with ConcurrentUploads(source.connections, session.sleep) as uploads:
        while await uploads.wait_for_slot():
            if (batch := await source.next(inputs, index)) is None:
                break
            held = None if known is None else await known.at(index)
            if held is None:
                uploads.begin(index, partial(upload, index, batch, samples))
            else:
                _require_equal(held, batch, recalibration_id)
                await count(1)
                uploads.release_slot()
            index += 1
            samples += batch.samples
    if index == 0:
        raise InputError("the stream of batches is empty", code="stream-empty")
    return index


def _require_equal(stored: StoredBatch, batch: EncodedBatch, recalibration_id: str) -> None:
    if stored.sha256 != batch.sha256:
        raise ConflictError(
            f"batch {stored.index} differs from the one stored for {recalibration_id}: resume with "
            "the same data in the same order and batch size, or start a new recalibration",
            code="batch-conflict",
            recalibration_id=recalibration_id,
        )
