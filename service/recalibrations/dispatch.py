"""The dispatcher: starts queued recalibrations, up to the configured number at a time.

Several processes can share a ledger, each with a dispatcher. A run belongs to the one that claims
it in a transaction, for as long as it extends its lease. When a run is cancelled or deleted in
another process, or claimed after its lease was over, the dispatcher notices at its next extension
and kills the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
from service.workers.memory import run_bytes, runs_bytes

_log = logging.getLogger(__name__)
# A lease is extended several times before it is over, and often enough that a cancellation by
# another process takes effect within seconds.
LEASE_PARTS = 5
MAX_EXTENSION_SECONDS = 2.0


def admit(tx: Transaction, settings: Settings) -> list[Recalibration]:
    """Queue the sealed recalibrations for whose runs memory is free; return them.

    Each reserves the memory of its workers until its end. Admission is strictly in the order of
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
    return run_bytes(options.get("memory_bytes"), settings)


def _reserved(tx: Transaction, settings: Settings) -> int:
    admitted = [*store.in_state(tx, State.QUEUED), *store.in_state(tx, State.RUNNING)]
    return sum(_memory_of(one.options, settings) for one in admitted)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    claim: int
    memory: int
    task: asyncio.Task[None]


class Dispatcher:
    """Owns the tasks of the runs in progress in this process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._wake = asyncio.Event()
        self._running: dict[str, _Run] = {}
        self._loops: list[asyncio.Task[None]] = []

    @property
    def running(self) -> int:
        """Number of runs in progress."""
        return len(self._running)

    def start(self) -> None:
        """Start to process the queue, including recalibrations that are already queued."""
        allowed = runs_bytes(self._context.settings)
        _log.info("Runs may use %d bytes in total", allowed, extra={"action": "admission"})
        self._loops = [
            asyncio.create_task(self._dispatch(), name="dispatcher"),
            asyncio.create_task(self._extend_leases(), name="leases"),
        ]
        self._wake.set()

    def wake(self) -> None:
        """Look for work: the queue or the free memory may have changed."""
        self._wake.set()

    async def kill(self, recalibration_id: str) -> None:
        """Kill the worker of a run, if it is running here, and wait until it has ended.

        Another process that runs it notices the change in the ledger.
        """
        found = self._running.get(recalibration_id)
        if found is not None:
            found.task.cancel()
            await asyncio.wait([found.task])

    async def stop(self) -> None:
        """Kill all workers and return their recalibrations to the queue."""
        for loop in self._loops:
            loop.cancel()
            await asyncio.wait([loop])
        for recalibration_id in list(self._running):
            await self.kill(recalibration_id)
        try:
            process = self._context.process
            await self._context.ledger.write(lambda tx: recovery.release(tx, process))
        except ServiceError as error:
            # They are queued again when their leases are over.
            _log.warning(
                "Runs could not be returned to the queue: %s",
                error,
                extra={"action": "release-failed"},
            )

    async def _dispatch(self) -> None:
        settings = self._context.settings
        while True:
            # Other processes add work without a signal.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.poll_seconds):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._fill()
            except ServiceError as error:
                _log.warning(
                    "The queue cannot be read: %s", error.message, extra={"action": "queue-failed"}
                )
                # The ledger may only be unable to write for a moment, on a full disk.
                await asyncio.sleep(settings.run_retry_seconds)

    async def _fill(self) -> None:
        await self._recover()
        await self._admit()
        while len(self._running) < self._context.settings.max_concurrent_runs:
            if await self._context.ledger.read(lambda tx: store.oldest(tx, State.QUEUED)) is None:
                return
            found = await self._context.ledger.write(self._claim)
            if found is None:
                return
            self._context.signals.notify(found.id)
            task = asyncio.create_task(run(self._context, found), name=f"run {found.id}")
            memory = _memory_of(found.options, self._context.settings)
            self._running[found.id] = _Run(claim=found.claims, memory=memory, task=task)
            task.add_done_callback(partial(self._done, found.id))

    def _claim(self, tx: Transaction) -> Recalibration | None:
        """Start the oldest queued recalibration, in one transaction, if this process has room."""
        found = store.oldest(tx, State.QUEUED)
        if found is None or not self._has_room(found):
            return None
        lease = self._context.settings.lease_seconds
        store.claim(tx, found.id, runner=self._context.process, lease_seconds=lease)
        return events.advance(tx, found.id, Event.BEGIN)

    def _has_room(self, found: Recalibration) -> bool:
        """Return whether there is memory for a run in addition to those of this process.

        A single run always fits.
        """
        settings = self._context.settings
        used = sum(one.memory for one in self._running.values())
        limit = settings.runner_memory_bytes
        return not used or not limit or used + _memory_of(found.options, settings) <= limit

    async def _recover(self) -> None:
        """Queue the runs of processes whose lease is over; write nothing if there are none."""
        if await self._context.ledger.read(store.abandoned):
            await recover(self._context)

    async def _extend_leases(self) -> None:
        """Extend the leases of all runs in progress, and kill those that are no longer wanted."""
        lease = self._context.settings.lease_seconds
        while True:
            await asyncio.sleep(min(lease / LEASE_PARTS, MAX_EXTENSION_SECONDS))
            if not self._running:
                continue
            try:
                await self._extend(lease)
            except ServiceError as error:
                # The runs continue: their writes name their claim, so they can do no harm.
                _log.warning(
                    "Leases were not extended: %s", error, extra={"action": "lease-not-extended"}
                )

    async def _extend(self, lease_seconds: float) -> None:
        running = dict(self._running)

        def work(tx: Transaction) -> dict[str, Recalibration | None]:
            for name, one in running.items():
                store.renew(tx, name, one.claim, lease_seconds=lease_seconds)
            return {name: store.find(tx, name) for name in running}

        for name, found in (await self._context.ledger.write(work)).items():
            if _is_lost(found, running[name].claim):
                _log.info(
                    "A run was ended by another process",
                    extra={"action": "run-lost", "recalibration": name},
                )
                running[name].task.cancel()

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


async def recover(context: Context, ended: Collection[str] = ()) -> list[Recalibration]:
    """Queue the runs of processes that have ended; return them.

    Args:
        context: context of the server.
        ended: ids of processes that are known to have ended; of others, the lease must be over.
    """
    found = await context.ledger.write(
        lambda tx: recovery.requeue_abandoned(tx, context.settings, ended)
    )
    for one in found:
        context.metrics.count_failure(one.error)
        context.signals.notify(one.id)
    _log.info(
        "%d interrupted runs were queued again", len(found), extra={"action": "runs-requeued"}
    )
    return found


def _is_lost(found: Recalibration | None, claim: int) -> bool:
    """Return whether a run that was claimed here must end.

    A run that has just finished is in its final state and has the same claim.
    """
    return found is None or found.claims != claim or found.state in {State.CANCELLED, State.QUEUED}


async def _dispatcher(request: Request) -> Dispatcher:
    """Return the app's dispatcher.

    A coroutine although it awaits nothing: the framework runs plain functions in a thread.
    """
    dispatcher = request.app.state.dispatcher
    assert isinstance(dispatcher, Dispatcher)
    return dispatcher


Runs = Annotated[Dispatcher, Depends(_dispatcher)]
"""The dispatcher as a parameter of routes."""
