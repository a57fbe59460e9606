"""What goes when: data once a recalibration has ended, everything when its time is over."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from service import clock
from service.context import Context
from service.errors import ServiceError
from service.models import operations as models_operations
from service.recalibrations import events as changes
from service.repositories import batches, idempotency, models
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED, Event
from service.settings import Settings
from service.storage.ledger.protocol import Transaction

_log = logging.getLogger(__name__)
IDEMPOTENCY_KEPT = timedelta(days=1)
# Rows that one transaction deletes: a few tens of milliseconds, for which everybody who waits for
# an acknowledgement waits too.
ROWS_AT_ONCE = 5000


async def remove_data(context: Context, name: str) -> None:
    """Remove the batches of an ended recalibration unless its owner wants to keep them."""
    found = await context.ledger.read(lambda tx: store.find(tx, name))
    if found is None or found.state not in ENDED or found.keep_data or found.data_removed:
        return
    await asyncio.to_thread(context.blobs.remove, batches.folder(name))
    await context.ledger.write(lambda tx: store.set_data_removed(tx, name))


def forget(tx: Transaction, name: str) -> bool:
    """Delete a recalibration; one with very many batches is closed instead, and False returned.

    `forget_more` does the rest, in further transactions.
    """
    found = store.get(tx, name)
    if found.received <= ROWS_AT_ONCE:
        store.delete(tx, name)
        return True
    if found.state not in ENDED:
        changes.advance(tx, name, Event.CANCEL)
    return False


async def forget_large(context: Context, name: str) -> None:
    """Delete a closed recalibration bit by bit, so that other writes come in between.

    Until its own row goes, last, it is there as a cancelled one; a crash leaves it so, to expire.
    """
    while await context.ledger.write(lambda tx: forget_more(tx, name)):
        pass


def forget_more(tx: Transaction, name: str) -> bool:
    """Delete a part of a closed recalibration; False when that was the last."""
    if batches.delete_last(tx, name, ROWS_AT_ONCE):
        return True
    store.delete(tx, name)
    return False


async def sweep(context: Context) -> None:
    """Remove what has expired, what should be gone, and what no row of the ledger knows.

    Nothing is removed once the ledger has failed: its last transaction may be on the disk all the
    same, and its rows would lose their files.
    """
    if context.ledger.failure is not None:
        return
    for name in await context.ledger.read(store.with_needless_data):
        await remove_data(context, name)
    await _expire_answers(context)
    for name in await context.ledger.read(lambda tx: overdue(tx, context.settings)):
        await _expire(context, name)
    await context.ledger.write(lambda tx: expire_models(tx, context.settings))
    for model in await models_operations.remove_unowned(context):
        _log.info(
            "A model that nobody holds is removed",
            extra={"action": "model-removed", "model": model},
        )
    await _remove_orphans(context)


async def sweep_forever(context: Context) -> None:
    """Sweep now and then; a failure is logged and tried again the next time."""
    while True:
        try:
            await sweep(context)
        except ServiceError as error:
            _log.warning("A sweep failed: %s", error.message, extra={"action": "sweep-failed"})
        await asyncio.sleep(context.settings.sweep_seconds)


def overdue(tx: Transaction, settings: Settings, name: str | None = None) -> list[str]:
    """Return the recalibrations whose time is over; with a name, that one or none."""
    now = datetime.now(UTC)
    ended = now - timedelta(seconds=settings.keep_ended_seconds)
    untouched = now - timedelta(seconds=settings.keep_open_seconds)
    return store.expired(
        tx, ended_before=clock.to_text(ended), open_before=clock.to_text(untouched), name=name
    )


def forget_overdue(tx: Transaction, settings: Settings, name: str) -> bool | None:
    """As `forget`; None where its time is not over (any more), or it is gone already."""
    return forget(tx, name) if overdue(tx, settings, name) else None


def expire_models(tx: Transaction, settings: Settings) -> None:
    """Take models that are out of use from their owners; then nobody may hold them."""
    before = datetime.now(UTC) - timedelta(seconds=settings.keep_model_seconds)
    models.expire(tx, before=clock.to_text(before))


async def _expire(context: Context, name: str) -> None:
    """Delete an overdue recalibration, in transactions of its own: others write in between."""
    forgotten = await context.ledger.write(lambda tx: forget_overdue(tx, context.settings, name))
    if forgotten is None:
        return
    if not forgotten:
        await forget_large(context, name)
    _log.info("A recalibration has expired", extra={"action": "expired", "recalibration": name})
    await asyncio.to_thread(context.blobs.remove, store.folder(name))


async def _expire_answers(context: Context) -> None:
    """Forget old answers, as many at a time as rows of batches; one that comes again stays."""
    before = clock.to_text(datetime.now(UTC) - IDEMPOTENCY_KEPT)

    def find(tx: Transaction) -> list[tuple[str, str]]:
        return idempotency.expired(tx, before=before, most=ROWS_AT_ONCE)

    while found := await context.ledger.read(find):
        some = found
        await context.ledger.write(
            lambda tx: idempotency.forget(tx, some, before=before)  # noqa: B023 - awaited at once
        )


async def _remove_orphans(context: Context) -> None:
    """Remove folders that a crash has left between the ledger and the blobs.

    A recalibration's folder appears only after its row, so a folder without a row is never one that
    is about to get it. A model's file appears before its row; the lock keeps the two together.
    """
    for name in await asyncio.to_thread(lambda: list(context.blobs.names("recalibrations"))):
        found = await context.ledger.read(lambda tx: store.find(tx, name))  # noqa: B023
        if found is None and context.ledger.failure is None:
            await asyncio.to_thread(context.blobs.remove, store.folder(name))
    for name in await asyncio.to_thread(lambda: list(context.blobs.names("models"))):
        async with context.model_files:
            known = await context.ledger.read(lambda tx: models.find(tx, name))  # noqa: B023
            if known is None and context.ledger.failure is None:
                await asyncio.to_thread(context.blobs.remove, models.folder(name))
