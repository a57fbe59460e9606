"""Deletion: data after a recalibration has ended, everything after its retention time."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from service import clock
from service.context import Context
from service.errors import ServiceError
from service.models import operations as models_operations
from service.recalibrations import events
from service.repositories import batches, idempotency, models
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED, Event
from service.repositories.records import Recalibration
from service.settings import Settings
from service.storage.ledger.protocol import Transaction

_log = logging.getLogger(__name__)
IDEMPOTENCY_RETENTION = timedelta(days=1)
# Much longer than any upload needs between storing its file and its row.
UPLOAD_SECONDS = 3600.0
ORPHAN_SECONDS = 86400.0


async def remove_data(context: Context, recalibration_id: str) -> None:
    """Remove the batches of an ended recalibration unless they are to be kept."""
    found = await context.ledger.read(lambda tx: store.find(tx, recalibration_id))
    if found is None or found.state not in ENDED or found.keep_data or found.data_removed:
        return
    await asyncio.to_thread(context.blobs.remove, batches.folder(recalibration_id))
    await context.ledger.write(lambda tx: store.set_data_removed(tx, recalibration_id))


def delete(tx: Transaction, settings: Settings, recalibration_id: str) -> bool:
    """Delete a recalibration in one transaction if it has few batches; return whether it did.

    A recalibration with many batches is only cancelled; `delete_part` deletes it in further
    transactions.
    """
    found = store.get(tx, recalibration_id)
    if found.received + found.source_received <= settings.deletion_rows:
        store.delete(tx, recalibration_id)
        return True
    if found.state not in ENDED:
        events.advance(tx, recalibration_id, Event.CANCEL)
    return False


async def delete_large(context: Context, recalibration_id: str) -> None:
    """Delete an ended recalibration in several transactions, so that others can write meanwhile.

    Its own row is deleted last. After a crash it remains as a cancelled one, and expires.
    """
    while await context.ledger.write(
        lambda tx: delete_part(tx, context.settings, recalibration_id)
    ):
        pass


def delete_part(tx: Transaction, settings: Settings, recalibration_id: str) -> bool:
    """Delete a part of an ended recalibration; return whether more is left."""
    if batches.delete_last(tx, recalibration_id, settings.deletion_rows):
        return True
    store.delete(tx, recalibration_id)
    return False


async def clean_up(context: Context) -> None:
    """Remove expired recalibrations and models, data that is not kept, and orphaned blobs.

    Nothing is removed after the ledger has failed: its last transaction may be durable although it
    reported an error, and its rows would lose their files. One of the processes that share a ledger
    cleans up for all.
    """
    if context.ledger.failure is not None or not await context.ledger.leads():
        return
    for recalibration_id in await context.ledger.read(store.with_data_to_remove):
        await remove_data(context, recalibration_id)
    await _expire_idempotency_keys(context)
    for recalibration_id in await context.ledger.read(lambda tx: overdue(tx, context.settings)):
        await _expire(context, recalibration_id)
    await context.ledger.write(lambda tx: expire_models(tx, context.settings))
    for model in await models_operations.remove_unowned(context):
        _log.info(
            "A model without an owner was removed",
            extra={"action": "model-removed", "model": model},
        )
    await _remove_orphans(context)


async def clean_up_forever(context: Context) -> None:
    """Clean up at regular intervals; an error is logged, and the next interval tries again."""
    while True:
        try:
            await clean_up(context)
        except ServiceError as error:
            _log.warning("A cleanup failed: %s", error.message, extra={"action": "cleanup-failed"})
        await asyncio.sleep(context.settings.cleanup_interval_seconds)


def overdue(tx: Transaction, settings: Settings, recalibration_id: str | None = None) -> list[str]:
    """Return the ids of expired recalibrations; with an id, at most that one."""
    now = datetime.now(UTC)
    ended = now - timedelta(seconds=settings.ended_retention_seconds)
    untouched = now - timedelta(seconds=settings.open_retention_seconds)
    return store.expired(
        tx,
        ended_before=clock.to_text(ended),
        open_before=clock.to_text(untouched),
        recalibration_id=recalibration_id,
    )


def delete_overdue(tx: Transaction, settings: Settings, recalibration_id: str) -> bool | None:
    """As `delete`; return None if it has not expired (any more) or does not exist."""
    expired = overdue(tx, settings, recalibration_id)
    return delete(tx, settings, recalibration_id) if expired else None


def expire_models(tx: Transaction, settings: Settings) -> None:
    """Remove owners from models that they have not used within the retention time."""
    before = datetime.now(UTC) - timedelta(seconds=settings.model_retention_seconds)
    models.expire(tx, before=clock.to_text(before))


async def _expire(context: Context, recalibration_id: str) -> None:
    """Delete an expired recalibration in its own transactions."""
    deleted = await context.ledger.write(
        lambda tx: delete_overdue(tx, context.settings, recalibration_id)
    )
    if deleted is None:
        return
    if not deleted:
        await delete_large(context, recalibration_id)
    _log.info(
        "A recalibration has expired",
        extra={"action": "expired", "recalibration": recalibration_id},
    )
    await asyncio.to_thread(context.blobs.remove, store.folder(recalibration_id))


async def _expire_idempotency_keys(context: Context) -> None:
    """Delete old responses in several transactions; a key that was used again stays."""
    before = clock.to_text(datetime.now(UTC) - IDEMPOTENCY_RETENTION)

    def find(tx: Transaction) -> list[tuple[str, str]]:
        return idempotency.expired(tx, before=before, limit=context.settings.deletion_rows)

    while found := await context.ledger.read(find):
        some = found
        await context.ledger.write(
            lambda tx: idempotency.delete(tx, some, before=before)  # noqa: B023 - awaited at once
        )


async def _remove_orphaned_batches(context: Context, found: Recalibration) -> None:
    """Remove files of batches without a row, once a day.

    A request that ended between file and row leaves one. They take space until the recalibration is
    deleted, but do no harm.
    """
    now = datetime.now(UTC)
    age = (now - clock.from_text(found.created)).total_seconds()
    interval = context.settings.cleanup_interval_seconds
    if age < ORPHAN_SECONDS or age % ORPHAN_SECONDS > 2 * interval:
        return
    folder = batches.folder(found.id)
    names = await asyncio.to_thread(
        lambda: list(context.blobs.names(folder, min_age_seconds=ORPHAN_SECONDS))
    )
    # Read after the names: a name that was listed before its row was inserted is old enough.
    known = await context.ledger.read(lambda tx: batches.blobs(tx, found.id))
    for name in set(names) - known:
        if context.ledger.failure is None:
            await asyncio.to_thread(context.blobs.remove, f"{folder}/{name}")


async def _remove_orphans(context: Context) -> None:
    """Remove folders without a row, which a crash between ledger and blobs can leave.

    A recalibration's folder is created after its row, so a folder without a row will never get one.
    A model's file is stored before its row, so a new folder may still get one, and so may a new
    file of a batch.
    """
    for name in await asyncio.to_thread(lambda: list(context.blobs.names("recalibrations"))):
        found = await context.ledger.read(lambda tx: store.find(tx, name))  # noqa: B023
        if found is None and context.ledger.failure is None:
            await asyncio.to_thread(context.blobs.remove, store.folder(name))
        elif found is not None and not found.data_removed:
            await _remove_orphaned_batches(context, found)
    for name in await asyncio.to_thread(
        lambda: list(context.blobs.names(models.FOLDER, min_age_seconds=UPLOAD_SECONDS))
    ):
        known = await context.ledger.read(lambda tx: models.has_folder(tx, name))  # noqa: B023
        if not known and context.ledger.failure is None:
            await asyncio.to_thread(context.blobs.remove, models.folder(name))
