"""One run: from a claimed recalibration to durable results, or to the reason why there are none."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

from bn_ops.errors import BnOpsError
from service import problems
from service.context import Context
from service.errors import CapacityError, RefusedError, ServiceError, WorkerDeadlineError
from service.recalibrations import events as changes
from service.recalibrations import recovery, results, retention
from service.recalibrations.results import Result
from service.repositories import batches, models
from service.repositories import recalibrations as store
from service.repositories.batches import StoredBatch
from service.repositories.lifecycle import Event
from service.repositories.records import Recalibration
from service.storage.ledger.protocol import Transaction
from service.workers.messages import Piece
from service.workers.protocol import Job, OnProgress, Progress

_log = logging.getLogger(__name__)
BATCH_PAGE = 1000
# A person reads no faster; a new phase is always told at once.
PROGRESS_SECONDS = 0.25
# Between a run that this machine could not do now (disk full, no process) and the next attempt.
PUT_OFF_SECONDS = 5.0


async def run(context: Context, found: Recalibration) -> None:
    """Do a claimed run and write down how it ended; cancelling the task kills the worker."""
    ids = {"recalibration": found.id, "attempt": found.attempts}
    _log.info("A run begins", extra={"action": "run-begins", **ids})
    began = monotonic()
    try:
        with context.metrics.running.track_inprogress():
            await _run(context, found)
    except asyncio.CancelledError:
        _log.info("A run was killed", extra={"action": "run-killed", **ids})
        raise
    except CapacityError as error:
        _log.warning("A run is put off: %s", error, extra={"action": "run-put-off", **ids})
        refusal = error
        # What is full now is hardly empty in an instant; the run begins again from its first batch.
        await asyncio.sleep(PUT_OFF_SECONDS)
        await context.ledger.write(
            lambda tx: recovery.after_refusal(tx, found.id, refusal, context.settings)
        )
    except (RefusedError, WorkerDeadlineError) as error:
        # The same work would end the same way again.
        problem = problems.from_error(error)
        await context.ledger.write(lambda tx: _fail(tx, found.id, problem))
    except (ServiceError, BnOpsError, OSError) as error:
        _log.warning("A run was cut off: %s", error, extra={"action": "run-cut-off", **ids})
        cause = error
        await context.ledger.write(
            lambda tx: recovery.after_death(tx, found.id, cause, context.settings)
        )
    ended = await context.ledger.read(lambda tx: store.find(tx, found.id))
    state = None if ended is None else ended.state
    _log.info(
        "A run has ended: %s",
        state,
        extra={"action": "run-ended", "state": state, "seconds": monotonic() - began, **ids},
    )
    context.metrics.run_seconds.labels(state=str(state)).observe(monotonic() - began)
    if ended is not None:
        context.metrics.count_failure(ended.error)
    context.signals.notify(found.id)
    await retention.remove_data(context, found.id)


async def _run(context: Context, found: Recalibration) -> None:
    output = await asyncio.to_thread(context.blobs.workspace)
    try:
        job = Job(
            model=context.blobs.path(models.key(found.model)),
            inputs=found.inputs,
            batch_folder=context.blobs.path(batches.folder(found.id)),
            batches=lambda: _batches(context, found.id),
            total=found.total or 0,
            options=found.options,
            output=output,
        )
        await context.executor.run(job, _reporter(context, found.id))
        await _keep(context, found.id, output)
    finally:
        await asyncio.to_thread(shutil.rmtree, output, ignore_errors=True)


async def _keep(context: Context, name: str, output: Path) -> None:
    kept = await asyncio.to_thread(results.adopt, context.blobs, name, output)
    await context.ledger.write(lambda tx: _finish(tx, name, kept))


def _finish(tx: Transaction, name: str, kept: list[Result]) -> None:
    if store.find_running(tx, name) is None:
        return
    for result in kept:
        results.insert(tx, name, result)
    changes.advance(tx, name, Event.FINISH)


def _fail(tx: Transaction, name: str, problem: dict[str, object]) -> None:
    if store.find_running(tx, name) is not None:
        changes.fail(tx, name, problem)


async def _batches(context: Context, name: str) -> AsyncIterator[list[Piece]]:
    after = -1
    while True:
        start = after
        page = await context.ledger.read(
            lambda tx: batches.page(tx, name, after=start, limit=BATCH_PAGE)  # noqa: B023 - awaited
        )
        if not page:
            return
        yield [_piece(one) for one in page]
        after = page[-1].index


def _piece(batch: StoredBatch) -> Piece:
    return Piece(name=batch.blob, format=batch.format, start=batch.start, bytes=batch.bytes)


def _reporter(context: Context, name: str) -> OnProgress:
    told_at = 0.0
    told_phase = ""

    async def report(step: Progress) -> None:
        nonlocal told_at, told_phase
        if step.phase == told_phase and monotonic() - told_at < PROGRESS_SECONDS:
            return
        told_at, told_phase = monotonic(), step.phase
        await context.ledger.write(lambda tx: changes.progress(tx, name, step))
        context.signals.notify(name)

    return report
