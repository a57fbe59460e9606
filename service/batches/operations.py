"""Storing batches.

A batch is acknowledged once its bytes are durable and, after that, its row. The index decides its
identity; the digest only distinguishes a replay from a conflict. Small arrays share packs and the
ledger's wait for the disk; every other batch is a file of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bn_ops.core.signature import TensorInfo
from service.batches import ingest
from service.batches.ingest import Received
from service.batches.recording import Keep, NewBatch, lookup, record, replayed
from service.batches.upload import Upload
from service.context import Context
from service.errors import PreprocessMissingError, ServiceError, StorageFailedError
from service.formats.body import BatchBody
from service.formats.registry import FORMATS
from service.repositories import batches as store
from service.repositories import recalibrations
from service.repositories.lifecycle import State
from service.repositories.records import Recalibration, StoredBatch
from service.storage.blobs.protocol import BlobLocation
from service.storage.ledger.protocol import Transaction
from service.workers.protocol import BatchToValidate

__all__ = ["Upload", "put"]


async def put(context: Context, upload: Upload) -> tuple[StoredBatch, bool]:
    """Store a batch; return it, and whether it is new.

    Raises:
        NotFoundError: there is no such recalibration.
        PreprocessMissingError: the batch holds images, the recalibration takes arrays only.
        RecalibrationNotOpenError: the stream is sealed and the batch is not a replay.
        BatchConflictError: other content is stored under the index.
        QuotaError, StorageFullError: a limit was reached.
        BatchMalformedError, BatchError, RefusedError: the batch is not valid for the recalibration.
        WorkerDiedError, WorkerDeadlineError: a worker crashed or timed out while reading it.
    """
    upload, small = await _peek(upload, context.settings.packed_batch_bytes)
    if small is None:
        batch, new = await _put_file(context, upload)
    else:
        batch, new = await _put_packed(context, upload, small)
    if new:
        context.metrics.ingest_bytes.inc(batch.bytes)
        context.metrics.ingest_batches.inc()
    context.signals.notify(upload.recalibration_id)
    return batch, new


async def _peek(upload: Upload, limit_bytes: int) -> tuple[Upload, bytearray | None]:
    """Return an equal upload, and its body if it is arrays within the limit, otherwise None."""
    opaque = FORMATS[upload.format].header is None
    if opaque or (upload.announced or 0) > limit_bytes:
        return upload, None
    first = await anext(upload.body)
    if len(first) > limit_bytes:
        return replace(upload, body=_chained([first], upload.body)), None
    second = await anext(upload.body, None)
    if second is not None:
        return replace(upload, body=_chained([first, second], upload.body)), None
    return upload, first


async def _chained(
    blocks: list[bytearray], rest: AsyncIterator[bytearray]
) -> AsyncIterator[bytearray]:
    while blocks:
        yield blocks.pop(0)
    async for block in rest:
        yield block


async def _put_packed(
    context: Context, upload: Upload, content: bytearray
) -> tuple[StoredBatch, bool]:
    """Store a small batch: its bytes in a pack and its row, with one wait for both."""
    inputs = await context.inputs.get(context.ledger, upload.recalibration_id)
    parser = _parser(context, inputs, upload)
    received = await ingest.receive_whole(content, parser, upload.digest)
    staged = await context.blobs.stage(store.folder(upload.recalibration_id), content)
    return await _record(context, upload, received, staged.store)


async def _record(
    context: Context, upload: Upload, received: Received, keep: Keep
) -> tuple[StoredBatch, bool]:
    """Store the row of a batch with those of the batches that wait at the same time."""
    item = NewBatch(settings=context.settings, upload=upload, received=received, keep=keep)
    return await context.ledger.write_together(record, item)


async def _put_file(context: Context, upload: Upload) -> tuple[StoredBatch, bool]:
    """Store any other batch: a file first, then its row."""
    found, known = await context.ledger.read(lambda tx: _look_up(tx, upload))
    if known is not None:
        sha256 = await ingest.measure(upload.body)
        return await context.ledger.write(lambda tx: _replayed(tx, upload, sha256)), False
    if (again := await _replay_after_seal(context, found, upload)) is not None:
        return again, False
    found.require_open()
    _require_preprocess(found, upload)
    received, blob = await _receive(context, found, upload)
    location = BlobLocation(name=blob, start=None)
    try:
        batch, new = await _record(context, upload, received, lambda _tx: location)
    except StorageFailedError:
        # The commit may be on the disk nevertheless: a row without its file would be a loss.
        raise
    except ServiceError:
        await _remove(context, upload, blob)
        raise
    if not new:
        await _remove(context, upload, blob)
    return batch, new


def _look_up(tx: Transaction, upload: Upload) -> tuple[Recalibration, StoredBatch | None]:
    found = recalibrations.get(tx, upload.recalibration_id)
    if upload.index is None:
        return found, None
    return found, store.find(tx, upload.recalibration_id, upload.stream, upload.index)


def _replayed(tx: Transaction, upload: Upload, sha256: str) -> StoredBatch:
    """Return the stored batch of a replay."""
    _, known = _look_up(tx, upload)
    if known is None:
        raise recalibrations.missing(upload.recalibration_id)
    return replayed(known, sha256)


async def _receive(context: Context, found: Recalibration, upload: Upload) -> tuple[Received, str]:
    """Receive the body into a durable file; return what was received and the file's name."""
    blob = f"{secrets.token_hex(12)}.{upload.format}"
    key = store.key(found.id, blob)
    if FORMATS[upload.format].header is not None:
        parser = _parser(context, found.tensors(), upload)
        received = await ingest.receive(
            context.blobs, key, upload.body, parser, upload.digest, draft=upload.draft
        )
        return received, blob
    validate = partial(_validate, context, found, upload)
    received = await ingest.receive_opaque(
        context.blobs, key, upload.body, validate, upload.digest, draft=upload.draft
    )
    return received, blob


def _parser(context: Context, inputs: Sequence[TensorInfo], upload: Upload) -> BatchBody:
    limit = context.settings.batch_limit_bytes
    return BatchBody(upload.format, inputs, batch=upload.index, limit_bytes=limit)


async def _validate(context: Context, found: Recalibration, upload: Upload, file: Path) -> int:
    """Let a worker read a batch; see `service.workers.protocol.Executor.validate`."""
    return await context.executor.validate(
        BatchToValidate(
            recalibration_id=found.id,
            inputs=found.inputs,
            options=found.options,
            file=file,
            format=upload.format,
            batch=upload.index,
        )
    )


async def _remove(context: Context, upload: Upload, blob: str) -> None:
    with contextlib.suppress(ServiceError):  # an orphan is removed with the recalibration
        await asyncio.to_thread(context.blobs.remove, store.key(upload.recalibration_id, blob))


async def _replay_after_seal(
    context: Context, found: Recalibration, upload: Upload
) -> StoredBatch | None:
    """Return the batch of a key whose response was lost before the stream was sealed, if any.

    Raises:
        IdempotencyKeyReusedError: the key was used with other content.
    """
    if found.state is State.OPEN or upload.key is None:
        return None
    sha256 = await ingest.measure(upload.body)
    return await context.ledger.write(lambda tx: lookup(tx, upload, sha256))


def _require_preprocess(found: Recalibration, upload: Upload) -> None:
    if FORMATS[upload.format].images is not None and found.image_input() is None:
        raise PreprocessMissingError(
            f"{found.id} accepts arrays only: create a recalibration with preprocess to send images"
        )
