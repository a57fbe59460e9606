"""The dispatcher: starts queued recalibrations, up to the configured number at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request

from service.context import Context
from service.errors import ServiceError
from service.recalibrations import events, recovery
from service.recalibrations.runs import run
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event, State
from service.repositories.records import Recalibration
from service.settings import Settings
from service.storage.ledger.protocol import Transaction
from service.workers.memory import runs_bytes, worker_bytes

_log = logging.getLogger(__name__)


def admit(tx: Transaction, settings: Settings) -> list[Recalibration]:
    """Queue the sealed recalibrations for whose runs memory is free; return them.

    Each reserves the memory of its worker until its end. Admission is strictly in the order of
    creation, so small recalibrations never overtake a large one forever. A recalibration that needs
    more than the total is admitted alone.
    """
    admitted: list[Recalibration] = []
    reserved: int | None = None
    while (found := store.oldest(tx, State.SEALED)) is not None:
        if reserved is None:
            reserved = _reserved(tx, settings)
        need = _memory_of(found.options, settings)
        if reserved and reserved + need > runs_bytes(settings):
            break
        reserved += need
        admitted.append(events.advance(tx, found.id, Event.ADMIT))
    return admitted


def _memory_of(options: Mapping[str, Any], settings: Settings) -> int:
    return worker_bytes(options.get("memory_bytes"), settings)


def _reserved(tx: Transaction, settings: Settings) -> int:
    admitted = [*store.in_state(tx, State.QUEUED), *store.in_state(tx, State.RUNNING)]
    return sum(_memory_of(one.options, settings) for one in admitted)


class Dispatcher:
    """Owns the tasks of all runs in progress."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wake = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None

    @property
    def running(self) -> int:
        """Number of runs in progress."""
        return len(self._running)

    def start(self) -> None:
        """Start to process the queue, including recalibrations that are already queued."""
        allowed = runs_bytes(self._context.settings)
        _log.info("Runs may use %d bytes in total", allowed, extra={"action": "admission"})
        self._wake.set()
        self._loop = asyncio.create_task(self._dispatch(), name="dispatcher")

    def wake(self) -> None:
        """Look for work: the queue or the free memory may have changed."""
        self._wake.set()

    async def kill(self, recalibration_id: str) -> None:
        """Kill the worker of a run, if it is running, and wait until it has ended."""
        task = self._running.get(recalibration_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def stop(self) -> None:
        """Kill all workers and return their recalibrations to the queue."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        ids = list(self._running)
        for recalibration_id in ids:
            await self.kill(recalibration_id)
        for recalibration_id in ids:
            await self._release(recalibration_id)

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
                # The ledger may only be unable to write for a moment, on a full disk.
                pause = self._context.settings.run_retry_seconds
                asyncio.get_running_loop().call_later(pause, self.wake)

    async def _fill(self) -> None:
        await self._admit()
        while len(self._running) < self._context.settings.max_concurrent_runs:
            found = await self._context.ledger.write(_claim)
            if found is None:
                return
            self._context.signals.notify(found.id)
            task = asyncio.create_task(run(self._context, found), name=f"run {found.id}")
            self._running[found.id] = task
            task.add_done_callback(partial(self._done, found.id))

    async def _admit(self) -> None:
        """Admit sealed recalibrations to the queue; write nothing if there are none."""
        ledger = self._context.ledger
        if await ledger.read(lambda tx: store.oldest(tx, State.SEALED)) is None:
            return
        settings = self._context.settings
        for found in await ledger.write(lambda tx: admit(tx, settings)):
            self._context.signals.notify(found.id)

    def _done(self, recalibration_id: str, task: asyncio.Task[None]) -> None:
        del self._running[recalibration_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error(
                "A run ended with an internal error", exc_info=error, extra={"action": "run-error"}
            )
        self._wake.set()

    async def _release(self, recalibration_id: str) -> None:
        try:
            await self._context.ledger.write(lambda tx: recovery.release(tx, recalibration_id))
        except ServiceError as error:
            # The next start requeues it from the ledger alone.
            _log.warning(
                "%s could not be returned to the queue: %s",
                recalibration_id,
                error,
                extra={"action": "release-failed"},
            )


def _claim(tx: Transaction) -> Recalibration | None:
    """Start the oldest queued recalibration, in one transaction."""
    found = store.oldest(tx, State.QUEUED)
    if found is None:
        return None
    store.count_attempt(tx, found.id)
    return events.advance(tx, found.id, Event.BEGIN)


async def _dispatcher(request: Request) -> Dispatcher:
    """Return the app's dispatcher.

    A coroutine although it awaits nothing: the framework runs plain functions in a thread.
    """
    dispatcher = request.app.state.dispatcher
    assert isinstance(dispatcher, Dispatcher)
    return dispatcher


Runs = Annotated[Dispatcher, Depends(_dispatcher)]
"""The dispatcher as a parameter of routes."""
