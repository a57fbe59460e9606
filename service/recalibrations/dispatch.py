"""The dispatcher: takes queued recalibrations up, as many at a time as the settings allow."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from service.context import Context
from service.errors import ServiceError
from service.recalibrations import admission, recovery
from service.recalibrations import events as changes
from service.recalibrations.runs import run
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event, State
from service.repositories.records import Recalibration
from service.storage.ledger.protocol import Transaction
from service.workers.memory import runs_bytes

_log = logging.getLogger(__name__)
# A ledger that refuses for a moment (disk full) is asked again after so long.
RETRY_SECONDS = 5.0


class Dispatcher:
    """Owns the tasks of all runs under way."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wake = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """Number of runs under way."""
        return len(self._running)

    def start(self) -> None:
        """Begin to take up work, what is queued already included."""
        allowed = runs_bytes(self._context.settings)
        _log.info("Runs may take %d bytes together", allowed, extra={"action": "admission"})
        self._wake.set()
        self._loop = asyncio.create_task(self._dispatch(), name="dispatcher")

    def wake(self) -> None:
        """Tell that there may be work."""
        self._wake.set()

    async def kill(self, name: str) -> None:
        """Kill a run's worker and wait until it is gone; harmless when nothing runs."""
        task = self._running.get(name)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def stop(self) -> None:
        """Kill all workers and give their recalibrations back to the queue."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        names = list(self._running)
        for name in names:
            await self.kill(name)
        for name in names:
            await self._give_back(name)

    async def _dispatch(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._fill()
            except ServiceError as error:
                _log.warning(
                    "The queue cannot be read: %s", error.message, extra={"action": "queue-failed"}
                )
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self.wake)

    async def _fill(self) -> None:
        await self._admit()
        while len(self._running) < self._context.settings.concurrency:
            found = await self._context.ledger.write(_claim)
            if found is None:
                return
            self._context.signals.notify(found.id)
            task = asyncio.create_task(run(self._context, found), name=f"run {found.id}")
            self._running[found.id] = task
            task.add_done_callback(partial(self._done, found.id))

    async def _admit(self) -> None:
        """Let sealed recalibrations into the queue; nothing is written where none waits."""
        ledger = self._context.ledger
        if await ledger.read(lambda tx: store.oldest(tx, State.SEALED)) is None:
            return
        settings = self._context.settings
        for found in await ledger.write(lambda tx: admission.admit(tx, settings)):
            self._context.signals.notify(found.id)

    def _done(self, name: str, task: asyncio.Task[None]) -> None:
        del self._running[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(
                "A run ended in a fault of ours", exc_info=error, extra={"action": "run-fault"}
            )
        self._wake.set()

    async def _give_back(self, name: str) -> None:
        try:
            await self._context.ledger.write(lambda tx: recovery.give_back(tx, name))
        except ServiceError as error:
            # The next start does the same from the ledger alone.
            _log.warning(
                "%s is not given back: %s", name, error, extra={"action": "give-back-failed"}
            )


def _claim(tx: Transaction) -> Recalibration | None:
    """Take the oldest queued recalibration, in one transaction."""
    found = store.oldest(tx, State.QUEUED)
    if found is None:
        return None
    store.count_attempt(tx, found.id)
    return changes.advance(tx, found.id, Event.BEGIN)
