"""What can be done with batches.

A batch is acknowledged when its file is durable and, after that, its row. The index decides
identity; the digest only tells a replay from a conflict.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service import idempotency, room
from service.batches import ingest, store
from service.batches.ingest import Received
from service.batches.store import StoredBatch
from service.context import Context
from service.errors import (
    BatchConflictError,
    PreprocessMissingError,
    QuotaError,
    ServiceError,
    StorageFailedError,
)
from service.executor.protocol import Check
from service.formats.body import FORMATS, BatchBody
from service.formats.pictures import IMAGE_FORMATS
from service.ledger.protocol import Transaction
from service.lifecycle import State
from service.recalibrations import store as recalibrations
from service.recalibrations.values import Recalibration
from service.tokens import store as tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One batch as it comes in.

    Attributes:
        recalibration: whose stream it belongs to.
        index: its place; None appends it.
        format: one of the formats in `service.http.media`.
        body: blocks of bytes.
        digest: SHA-256 that the client announced, or None.
        key: the client's Idempotency-Key; only for appends.
        key_with_content: whether the key names a batch only together with its content, so that a
            key that comes again with other content is another batch and no conflict.
    """

    recalibration: str
    index: int | None
    format: str
    body: AsyncIterator[bytearray]
    digest: str | None
    key: str | None = None
    key_with_content: bool = False


async def put(context: Context, upload: Upload) -> tuple[StoredBatch, bool]:
    """Store a batch; returns it, and whether it is new.

    Raises:
        NotFoundError: there is no such recalibration.
        PreprocessMissingError: it takes no images.
        RecalibrationNotOpenError: the stream is sealed and this is no replay.
        BatchConflictError: another content is stored under the index.
        QuotaError, StorageFullError: a limit was reached.
        BatchMalformedError, BatchError, RefusedError: it is no batch for this recalibration.
        WorkerDiedError, WorkerDeadlineError: a worker could not read it.
    """
    found, known = await context.ledger.read(lambda tx: _look_up(tx, upload))
    if known is not None:
        sha256 = await ingest.measure(upload.body)
        return _replayed(known, sha256), False
    if (again := await _replay_after_seal(context, found, upload)) is not None:
        return again, False
    found.require_open()
    _require_preprocess(found, upload)
    received, blob = await _receive(context, found, upload)
    try:
        batch, new = await context.ledger.write(
            lambda tx: _record(context, tx, upload, received, blob)
        )
    except StorageFailedError:
        # The commit may be on the disk all the same: a row without its file would be a loss.
        raise
    except ServiceError:
        await _remove(context, upload, blob)
        raise
    if new:
        context.metrics.ingest_bytes.add(batch.bytes)
        context.metrics.ingest_batches.add(1)
    else:
        await _remove(context, upload, blob)
    context.signals.notify(upload.recalibration)
    return batch, new


def _look_up(tx: Transaction, upload: Upload) -> tuple[Recalibration, StoredBatch | None]:
    found = recalibrations.get(tx, upload.recalibration)
    if upload.index is None:
        return found, None
    return found, store.find(tx, upload.recalibration, upload.index)


async def _receive(context: Context, found: Recalibration, upload: Upload) -> tuple[Received, str]:
    blob = f"{secrets.token_hex(12)}.{upload.format}"
    key = store.key(found.id, blob)
    if upload.format in FORMATS:
        parser = BatchBody(
            upload.format,
            found.tensors(),
            batch=upload.index,
            limit_bytes=context.settings.batch_limit_bytes,
        )
        return await ingest.receive(context.blobs, key, upload.body, parser, upload.digest), blob
    check = partial(_check, context, found, upload)
    return await ingest.receive_opaque(context.blobs, key, upload.body, check, upload.digest), blob


async def _check(context: Context, found: Recalibration, upload: Upload, file: Path) -> int:
    """Have a worker read a batch; see `service.executor.protocol.Executor.check`."""
    return await context.executor.check(
        Check(
            recalibration=found.id,
            inputs=found.inputs,
            options=found.options,
            file=file,
            format=upload.format,
            batch=upload.index,
        )
    )


async def _remove(context: Context, upload: Upload, blob: str) -> None:
    with contextlib.suppress(ServiceError):  # an orphan is removed with the recalibration
        await asyncio.to_thread(context.blobs.remove, store.key(upload.recalibration, blob))


def _record(
    context: Context, tx: Transaction, upload: Upload, received: Received, blob: str
) -> tuple[StoredBatch, bool]:
    """Give a received batch its row, unless the world has changed since it was looked up."""
    name = upload.recalibration
    if (again := _recall(tx, upload, received.sha256)) is not None:
        return again, False
    found = recalibrations.get(tx, name)
    index = store.next_index(tx, name) if upload.index is None else upload.index
    known = store.find(tx, name, index)
    if known is not None:
        return _replayed(known, received.sha256), False
    found.require_open()
    _require_room(context, tx, found, index, received)
    batch = StoredBatch(
        index=index,
        samples=received.samples,
        bytes=received.bytes,
        sha256=received.sha256,
        format=upload.format,
        blob=blob,
    )
    store.insert(tx, name, batch)
    recalibrations.count_batch(tx, name, samples=batch.samples, size=batch.bytes)
    _remember(tx, upload, batch)
    return batch, True


async def _replay_after_seal(
    context: Context, found: Recalibration, upload: Upload
) -> StoredBatch | None:
    """Return what a key's lost answer told before the stream was sealed; None where there is none.

    Raises:
        IdempotencyKeyReusedError: the key came with other content.
    """
    if found.state is State.OPEN or upload.key is None:
        return None
    sha256 = await ingest.measure(upload.body)
    return await context.ledger.read(lambda tx: _recall(tx, upload, sha256))


def _recall(tx: Transaction, upload: Upload, sha256: str) -> StoredBatch | None:
    if upload.key is None:
        return None
    key = _key(upload, sha256)
    answer = idempotency.recall(tx, scope=_scope(upload), key=key, request=sha256)
    return None if answer is None else store.find(tx, upload.recalibration, int(answer))


def _remember(tx: Transaction, upload: Upload, batch: StoredBatch) -> None:
    if upload.key is not None:
        idempotency.remember(
            tx,
            scope=_scope(upload),
            key=_key(upload, batch.sha256),
            request=batch.sha256,
            response=str(batch.index),
        )


def _key(upload: Upload, sha256: str) -> str:
    key = upload.key or ""
    return idempotency.fingerprint(f"{sha256} {key}".encode()) if upload.key_with_content else key


def _scope(upload: Upload) -> str:
    return f"POST /v1/recalibrations/{upload.recalibration}/batches"


def _replayed(known: StoredBatch, sha256: str) -> StoredBatch:
    if known.sha256 != sha256:
        raise BatchConflictError(
            f"batch {known.index} is stored with SHA-256 {known.sha256}, this one has {sha256}",
            batch=known.index,
            stored=known.sha256,
        )
    return known


def _require_preprocess(found: Recalibration, upload: Upload) -> None:
    if upload.format in IMAGE_FORMATS and found.options.get("preprocess") is None:
        raise PreprocessMissingError(
            f"{found.id} takes arrays: open a recalibration with preprocess to send images"
        )


def _require_room(
    context: Context, tx: Transaction, found: Recalibration, index: int, received: Received
) -> None:
    settings = context.settings
    if found.bytes + received.bytes > settings.recalibration_limit_bytes:
        limit = settings.recalibration_limit_bytes
        raise QuotaError(f"a recalibration takes at most {limit} bytes", limit=limit)
    limit = min(settings.recalibration_limit_batches, store.LARGEST_INDEX + 1)
    if found.received >= limit or index > store.LARGEST_INDEX:
        raise QuotaError(f"a recalibration takes at most {limit} batches", limit=limit)
    tokens.require_bytes(tx, found.owner, received.bytes)
    room.require(tx, settings, received.bytes)
