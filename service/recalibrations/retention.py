"""What goes when: data once a recalibration has ended, everything when its time is over."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta

from service import clock, idempotency
from service.batches import store as batches
from service.context import Context
from service.errors import ServiceError
from service.ledger.protocol import Transaction
from service.lifecycle import ENDED, Event
from service.models import operations as models_operations
from service.models import store as models
from service.recalibrations import changes, store
from service.settings import Settings

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

    `forget_large` does the rest, outside of this transaction.
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
    while await context.ledger.write(lambda tx: batches.delete_last(tx, name, ROWS_AT_ONCE)):
        pass
    await context.ledger.write(lambda tx: store.delete(tx, name))


async def sweep(context: Context) -> None:
    """Remove what has expired, what should be gone, and what no row of the ledger knows.

    Nothing is removed once the ledger has failed: its last transaction may be on the disk all the
    same, and its rows would lose their files.
    """
    if context.ledger.failure is not None:
        return
    for name in await context.ledger.read(store.with_needless_data):
        await remove_data(context, name)
    for name, forgotten in (await context.ledger.write(lambda tx: _expire(tx, context))).items():
        if not forgotten:
            await forget_large(context, name)
        _log.info("A recalibration has expired", extra={"action": "expired", "recalibration": name})
        await asyncio.to_thread(context.blobs.remove, store.folder(name))
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


def overdue(tx: Transaction, settings: Settings) -> list[str]:
    """Return the recalibrations whose time is over."""
    now = datetime.now(UTC)
    ended = now - timedelta(seconds=settings.keep_ended_seconds)
    untouched = now - timedelta(seconds=settings.keep_open_seconds)
    return store.expired(
        tx, ended_before=clock.to_text(ended), open_before=clock.to_text(untouched)
    )


def expire_models(tx: Transaction, settings: Settings) -> None:
    """Take models that are out of use from their owners; then nobody may hold them."""
    before = datetime.now(UTC) - timedelta(seconds=settings.keep_model_seconds)
    models.expire(tx, before=clock.to_text(before))


def _expire(tx: Transaction, context: Context) -> dict[str, bool]:
    idempotency.expire(tx, before=clock.to_text(datetime.now(UTC) - IDEMPOTENCY_KEPT))
    done = {name: forget(tx, name) for name in overdue(tx, context.settings)}
    expire_models(tx, context.settings)
    return done


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
