"""Wait for changes of a recalibration, also of those that another process makes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from time import monotonic

from service.context import Context
from service.errors import ServiceError
from service.repositories import events
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED
from service.repositories.records import Recalibration
from service.storage.ledger.protocol import Transaction

# A waiter reads the ledger again after this time even if no signal arrives.
POLL_SECONDS = 15.0


async def until_ended(
    context: Context, recalibration_id: str, *, seconds: float = math.inf
) -> Recalibration:
    """Return a recalibration once it has ended, the time is over, or the server stops.

    Args:
        context: context of the request.
        recalibration_id: the recalibration.
        seconds: maximum time to wait; 0 returns at once.

    Raises:
        NotFoundError: it does not exist, or no longer exists.
    """
    until = monotonic() + seconds
    subscription = context.signals.subscribe(recalibration_id)
    try:
        while True:
            found = await context.ledger.read(lambda tx: store.get(tx, recalibration_id))
            left = until - monotonic()
            if found.state in ENDED or context.signals.closed or left <= 0:
                return found
            await subscription.wait(min(left, POLL_SECONDS))
    finally:
        subscription.close()


async def until_ended_or_gone(
    context: Context,
    recalibration_id: str,
    gone: Callable[[], Awaitable[None]],
    *,
    seconds: float = math.inf,
) -> Recalibration | None:
    """As `until_ended`, but return None as soon as `gone` returns: the client has disconnected."""
    waiting = asyncio.create_task(until_ended(context, recalibration_id, seconds=seconds))
    leaving = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
        leaving.cancel()


async def watch_forever(context: Context) -> None:
    """Wake the waiters of recalibrations that other processes have changed.

    The ledger is read at regular intervals, and only while there are waiters.
    """
    seen: dict[str, int] = {}
    while True:
        await asyncio.sleep(context.settings.poll_seconds)
        if not (topics := context.signals.topics()):
            continue
        try:
            found = await context.ledger.read(lambda tx: _last_events(tx, topics))
        except ServiceError:
            continue  # waiters read the ledger themselves and report the error
        for topic, last in found.items():
            # A new waiter has read the ledger before, so it may have missed the last event.
            if seen.get(topic) != last:
                context.signals.notify(topic)
        seen = found


def _last_events(tx: Transaction, topics: list[str]) -> dict[str, int]:
    return {topic: events.last(tx, topic) for topic in topics}
