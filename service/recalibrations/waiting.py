"""Wait for a recalibration's end."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from time import monotonic

from service.context import Context
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED
from service.repositories.records import Recalibration

# A waiter looks again after so long even if nobody has woken it.
LOOK_SECONDS = 15.0


async def until_ended(context: Context, name: str, *, seconds: float = math.inf) -> Recalibration:
    """Return a recalibration once it has ended, the time is over, or the server goes down.

    Args:
        context: where.
        name: the recalibration.
        seconds: how long to wait at most; 0: not at all.

    Raises:
        NotFoundError: there is none (any more).
    """
    until = monotonic() + seconds
    subscription = context.signals.subscribe(name)
    try:
        while True:
            found = await context.ledger.read(lambda tx: store.get(tx, name))
            left = until - monotonic()
            if found.state in ENDED or context.signals.closed or left <= 0:
                return found
            await subscription.wait(min(left, LOOK_SECONDS))
    finally:
        subscription.close()


async def until_ended_or_gone(
    context: Context, name: str, gone: Callable[[], Awaitable[None]], *, seconds: float = math.inf
) -> Recalibration | None:
    """As `until_ended`; None as soon as `gone` returns: nobody is there to be told."""
    waiting = asyncio.create_task(until_ended(context, name, seconds=seconds))
    leaving = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        waiting.cancel()
        leaving.cancel()
