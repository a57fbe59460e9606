"""One run: from a claimed recalibration to durable results, or to the reason for a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic

from pydantic import ValidationError

from bn_ops.errors import BnOpsError
from service import problems
from service.context import Context
from service.errors import (
    LedgerUnavailableError,
    RefusedError,
    ServiceError,
    WorkerDeadlineError,
    WorkerError,
)
from service.recalibrations import events, recovery, retention
from service.recalibrations.schemas import VerdictOut
from service.repositories import batches, models, results
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event, State
from service.repositories.records import Recalibration, StoredBatch, StoredResult, Stream
from service.storage.blobs.protocol import BlobContent, Blobs
from service.storage.capacity import defers_run, translated
from service.storage.ledger.protocol import T, Transaction
from service.telemetry.logs import current_ids
from service.telemetry.tracing import RunTrace
from service.web.content_digest import sha256_of
from service.workers.messages import RESULTS, StoredBatchRef
from service.workers.protocol import (
    Job,
    MeasuredLayer,
    OnProgress,
    Outcome,
    Progress,
    StoredFiles,
)
from service.workers.sharding.run import reads_elsewhere

_log = logging.getLogger(__name__)
BATCH_PAGE = 1000
# A worker, which has parsed an untrusted model, cannot fill the ledger with more layers than this.
MAX_MEASURED_LAYERS = 10_000


async def run(context: Context, found: Recalibration) -> None:
    """Do a claimed run and record how it ended; cancelling the task kills the worker."""
    ids: dict[str, str | int] = {
        "recalibration": found.id,
        "attempt": found.attempts,
        "claim": found.claims,
    }
    telemetry = context.telemetry
    with telemetry.run(found.id, found.options.get("traceparent"), ids) as trace:
        # Never reset: each run is a task of its own.
        current_ids.set({**ids, **telemetry.log_ids})
        await _recorded(context, found, ids, trace)


async def _recorded(
    context: Context, found: Recalibration, ids: Mapping[str, object], trace: RunTrace
) -> None:
    _log.info("A run starts", extra={"action": "run-started", **ids})
    began = monotonic()
    try:
        with context.metrics.running.track_inprogress():
            await _run(context, found, trace)
    except asyncio.CancelledError:
        _log.info("A run was killed", extra={"action": "run-killed", **ids})
        raise
    except (RefusedError, WorkerDeadlineError) as error:
        # Another attempt would end the same way.
        problem = problems.from_error(error)
        await _write(context, found, lambda tx: _fail(tx, found, problem))
    except (ServiceError, BnOpsError, OSError) as error:
        await _interrupted(context, found, error, ids)
    ended = await _reached(
        context, found, lambda: context.ledger.read(lambda tx: store.find(tx, found.id))
    )
    state = None if ended is None else ended.state
    verdict = None if ended is None or ended.verdict is None else ended.verdict["code"]
    _log.info(
        "A run has ended: %s",
        state if verdict is None else f"{state}, verdict {verdict}",
        extra={
            "action": "run-ended",
            "state": state,
            "verdict": verdict,
            "seconds": monotonic() - began,
            **ids,
        },
    )
    trace.ended(str(state), verdict)
    context.metrics.run_seconds.labels(state=str(state)).observe(monotonic() - began)
    if ended is not None and ended.claims == found.claims:
        context.metrics.count_failure(ended.error)
        context.metrics.count_verdict(ended.verdict)
    context.signals.notify(found.id)
    with contextlib.suppress(ServiceError):  # the next cleanup removes what remains
        await retention.remove_data(context, found.id)


async def _interrupted(
    context: Context, found: Recalibration, error: Exception, ids: Mapping[str, object]
) -> None:
    """Defer a run that lacked resources; after any other error, count a crash of its worker."""
    if isinstance(error, ServiceError) and defers_run(error):
        _log.warning("A run is deferred: %s", error, extra={"action": "run-deferred", **ids})
        # A full disk is rarely free again at once, and the run starts again from its first batch.
        await asyncio.sleep(context.settings.run_retry_seconds)
        await _write(
            context,
            found,
            lambda tx: recovery.defer(tx, found.id, found.claims, error, context.settings),
        )
    else:
        _log.warning("A run was interrupted: %s", error, extra={"action": "run-interrupted", **ids})
        await _write(
            context,
            found,
            lambda tx: recovery.on_worker_crash(
                tx, found.id, found.claims, error, context.settings
            ),
        )


async def _write(context: Context, found: Recalibration, work: Callable[[Transaction], T]) -> T:
    """Record how a run has ended, as soon as the database can be reached.

    Otherwise the run would be done again, although its result may be complete. The work names the
    claim, so it changes nothing when another process has taken the run in the meantime.
    """
    return await _reached(context, found, lambda: context.ledger.write(work))


async def _reached(context: Context, found: Recalibration, access: Callable[[], Awaitable[T]]) -> T:
    """Access the ledger, again and again while its database cannot be reached."""
    while True:
        try:
            return await access()
        except LedgerUnavailableError:
            _log.warning(
                "A run waits for the database of the ledger, which cannot be reached",
                extra={"action": "run-waits-for-ledger", "recalibration": found.id},
            )
            await asyncio.sleep(context.settings.poll_seconds)


async def _run(context: Context, found: Recalibration, trace: RunTrace) -> None:
    trace.phase("preparing")
    stored = await context.ledger.read(lambda tx: models.get(tx, found.model))
    model_content = models.content(stored.folder, stored.bytes)
    elsewhere = reads_elsewhere(context.settings, found.options, found.source_total or 0)
    contents = partial(_contents, context, found.id)
    output = await asyncio.to_thread(context.blobs.workspace)
    try:
        async with (
            context.blobs.local(model_content) as model,
            context.blobs.local_folder(
                batches.folder(found.id), _first(contents()) if elsewhere else contents()
            ) as batch_folder,
        ):
            job = Job(
                model=model,
                inputs=found.inputs,
                batch_folder=batch_folder,
                batches=lambda: _batches(context, found.id),
                total=found.total or 0,
                source_total=found.source_total or 0,
                options=found.options,
                output=output,
                stored=StoredFiles(
                    model=model_content, folder=batches.folder(found.id), contents=contents
                )
                if elsewhere
                else None,
                trace=trace,
            )
            outcome = await context.executor.run(job, _reporter(context, found, trace))
        trace.phase("storing")
        await _keep(context, found, output, _verdict(outcome))
    finally:
        await asyncio.to_thread(shutil.rmtree, output, ignore_errors=True)


def _verdict(outcome: Outcome) -> VerdictOut | None:
    """Check the verdict, which comes from a process that has parsed an untrusted model.

    Raises:
        WorkerError: it is malformed.
    """
    if outcome.verdict is None:
        return None
    try:
        return VerdictOut.model_validate(outcome.verdict)
    except ValidationError as error:
        raise WorkerError("the worker sent a malformed verdict") from error


async def _keep(
    context: Context, found: Recalibration, output: Path, verdict: VerdictOut | None
) -> None:
    kept = await asyncio.to_thread(adopt, context.blobs, found, output)
    finished = await _write(context, found, lambda tx: _finish(tx, found, kept, verdict))
    await asyncio.to_thread(_remove_unused, context.blobs, found, finished=finished)


def _finish(
    tx: Transaction, found: Recalibration, kept: list[StoredResult], verdict: VerdictOut | None
) -> bool:
    """Record the success of a run; return False if it no longer runs under its claim.

    When the connection was lost during the commit, the success may be recorded already.
    """
    now = store.find(tx, found.id)
    if now is None or now.claims != found.claims:
        return False
    if now.state is not State.RUNNING:
        return now.state is State.SUCCEEDED
    if verdict is not None:
        store.set_verdict(tx, found.id, verdict.model_dump(mode="json"))
    for result in kept:
        results.insert(tx, found.id, result)
    events.advance(tx, found.id, Event.FINISH)
    return True


def _fail(tx: Transaction, found: Recalibration, problem: dict[str, object]) -> None:
    if store.find_claimed(tx, found.id, found.claims) is not None:
        events.fail(tx, found.id, problem)


def _remove_unused(blobs: Blobs, found: Recalibration, *, finished: bool) -> None:
    """Remove the results of this run if it lost its claim, otherwise those of earlier runs."""
    if not finished:
        blobs.remove(results.folder(found.id, found.claims))
        return
    for name in blobs.names(results.folder(found.id)):
        if name != str(found.claims):
            blobs.remove(f"{results.folder(found.id)}/{name}")


async def _batches(context: Context, recalibration_id: str) -> AsyncIterator[list[StoredBatchRef]]:
    async for page in _pages(context, recalibration_id):
        yield [_reference(one) for one in page]


async def _contents(context: Context, recalibration_id: str) -> AsyncIterator[list[BlobContent]]:
    async for page in _pages(context, recalibration_id):
        yield [batches.content(recalibration_id, one) for one in page]


async def _first(pages: AsyncIterator[list[BlobContent]]) -> AsyncIterator[list[BlobContent]]:
    """Yield the first content alone: a trial of the first batch needs no other."""
    async for page in pages:
        yield page[:1]
        return


async def _pages(context: Context, recalibration_id: str) -> AsyncIterator[list[StoredBatch]]:
    """Yield the batches of the target stream, then those of the source stream, in pages."""
    for stream in Stream:
        after = -1
        while page := await context.ledger.read(
            lambda tx: batches.page(tx, recalibration_id, stream, after=after, limit=BATCH_PAGE)  # noqa: B023 - awaited
        ):
            yield page
            after = page[-1].index


def _reference(batch: StoredBatch) -> StoredBatchRef:
    return StoredBatchRef(
        name=batch.blob,
        format=batch.format,
        start=batch.start,
        bytes=batch.bytes,
        samples=batch.samples,
    )


def _reporter(context: Context, found: Recalibration, trace: RunTrace) -> OnProgress:
    interval = context.settings.progress_interval_seconds
    reported_at = 0.0
    reported_phase = ""
    measured: list[MeasuredLayer] = []
    left = MAX_MEASURED_LAYERS

    async def report(step: Progress) -> None:
        nonlocal reported_at, reported_phase, left
        trace.phase(step.phase)
        some = step.layers[:left]
        left -= len(some)
        measured.extend(some)
        if step.phase == reported_phase and monotonic() - reported_at < interval:
            return
        reported_at, reported_phase = monotonic(), step.phase
        step = replace(step, layers=tuple(measured))
        try:
            await context.ledger.write(lambda tx: events.progress(tx, found.id, found.claims, step))
        except LedgerUnavailableError:
            return  # the run continues; its layers are reported with its next progress
        measured.clear()
        context.signals.notify(found.id)

    return report


def adopt(blobs: Blobs, found: Recalibration, output: Path) -> list[StoredResult]:
    """Store a worker's files durably and return their records; blocks.

    The files are durable before the ledger records the success of the run.

    Raises:
        StorageFullError, StorageFailedError: a file could not be stored.
    """
    adopted = []
    for name in RESULTS:
        file = output / name
        with translated():
            digest = sha256_of(file)
            size = file.stat().st_size
        adopted.append(StoredResult(name=name, bytes=size, sha256=digest, claim=found.claims))
        blobs.adopt(file, results.key(found.id, name, found.claims))
    return adopted
