"""The row of a batch: the decision whether the batch is new, a replay, or rejected."""

from __future__ import annotations

from collections.abc import Callable

from service.batches.ingest import Received
from service.batches.upload import PATHS, Upload
from service.context import Context
from service.errors import BatchConflictError, QuotaError
from service.repositories import batches as store
from service.repositories import idempotency, recalibrations, tokens, usage
from service.repositories.records import Recalibration, StoredBatch
from service.storage.blobs.protocol import BlobLocation
from service.storage.ledger.protocol import Transaction

Keep = Callable[[Transaction], BlobLocation]
"""Stores the bytes of a new batch and returns their location."""


def record(
    context: Context, tx: Transaction, upload: Upload, received: Received, keep: Keep
) -> tuple[StoredBatch, bool]:
    """Insert the row of a received batch, unless it is a replay or a limit or conflict rejects it.

    Args:
        context: context of the request.
        tx: the transaction in which the decision is made and the row is inserted.
        upload: the upload.
        received: size, digest and number of samples of the received body.
        keep: called only if the batch is new.

    Raises:
        NotFoundError, RecalibrationNotOpenError, BatchConflictError, IdempotencyKeyReusedError,
        QuotaError, StorageFullError: see `service.batches.operations.put`.
    """
    recalibration_id = upload.recalibration_id
    recalibrations.prefetch(tx, recalibration_id)
    store.prefetch(tx, recalibration_id, upload.stream, upload.index)
    usage.prefetch_total(tx)
    if (again := lookup(tx, upload, received.sha256)) is not None:
        return again, False
    found = recalibrations.get(tx, recalibration_id)
    index = upload.index
    if index is None:
        index = store.next_index(tx, recalibration_id, upload.stream)
    known = store.find(tx, recalibration_id, upload.stream, index)
    if known is not None:
        return replayed(known, received.sha256), False
    found.require_open()
    _check_limits(context, tx, found, index, received)
    location = keep(tx)
    batch = StoredBatch(
        index=index,
        samples=received.samples,
        bytes=received.bytes,
        sha256=received.sha256,
        format=upload.format,
        blob=location.name,
        start=location.start,
    )
    store.insert(tx, recalibration_id, upload.stream, batch)
    recalibrations.count_batch(
        tx, recalibration_id, upload.stream, samples=batch.samples, size=batch.bytes
    )
    _store_response(tx, upload, batch)
    return batch, True


def lookup(tx: Transaction, upload: Upload, sha256: str) -> StoredBatch | None:
    """Return the batch that was stored under the upload's key, or None.

    Raises:
        IdempotencyKeyReusedError: the key was used with other content.
    """
    if upload.key is None:
        return None
    key = _key(upload, sha256)
    index = idempotency.lookup(tx, scope=_scope(upload), key=key, request=sha256)
    if index is None:
        return None
    return store.find(tx, upload.recalibration_id, upload.stream, int(index))


def _store_response(tx: Transaction, upload: Upload, batch: StoredBatch) -> None:
    if upload.key is not None:
        idempotency.store_response(
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
    return f"POST /v1/recalibrations/{upload.recalibration_id}/{PATHS[upload.stream]}"


def replayed(known: StoredBatch, sha256: str) -> StoredBatch:
    """Return the stored batch of a replay.

    Raises:
        BatchConflictError: the stored batch has other content.
    """
    if known.sha256 != sha256:
        raise BatchConflictError(
            f"batch {known.index} is stored with SHA-256 {known.sha256}, the new one has {sha256}",
            batch=known.index,
            stored=known.sha256,
        )
    return known


def _check_limits(
    context: Context, tx: Transaction, found: Recalibration, index: int, received: Received
) -> None:
    settings = context.settings
    if found.bytes + received.bytes > settings.recalibration_limit_bytes:
        limit = settings.recalibration_limit_bytes
        raise QuotaError(f"a recalibration accepts at most {limit} bytes", limit=limit)
    limit = min(settings.recalibration_limit_batches, store.MAX_INDEX + 1)
    if found.received + found.source_received >= limit or index > store.MAX_INDEX:
        raise QuotaError(f"a recalibration accepts at most {limit} batches", limit=limit)
    tokens.check_bytes(tx, found.owner, received.bytes)
    usage.check_total(tx, settings, received.bytes)
