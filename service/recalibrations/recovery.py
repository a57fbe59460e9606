"""What happens to a run that was interrupted.

The process that claimed a run has a lease on it, which it extends while it works. A run is taken
from a process only when the lease is over, or when the process is known to have ended. A process
that was stopped for longer than its lease may continue afterwards; its writes name its claim, which
is no longer the current one, and change nothing.
"""

from __future__ import annotations

from collections.abc import Collection

from service import problems
from service.errors import ServiceError, WorkerDiedError
from service.recalibrations import events
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event
from service.repositories.records import Recalibration
from service.settings import Settings
from service.storage.ledger.protocol import Transaction


def requeue_abandoned(
    tx: Transaction, settings: Settings, ended: Collection[str] = ()
) -> list[Recalibration]:
    """Queue the runs whose lease is over or whose process is among the ended ones; return them.

    A run that was started too often fails instead, whether the worker or the server died each time:
    the run itself may be what kills the server.
    """
    return [_requeue(tx, found, settings) for found in store.abandoned(tx, ended)]


def _requeue(tx: Transaction, found: Recalibration, settings: Settings) -> Recalibration:
    if found.attempts < settings.max_attempts:
        return events.advance(tx, found.id, Event.INTERRUPT)
    cause = WorkerDiedError(
        f"the run was started {found.attempts} times and interrupted each time",
        attempts=found.attempts,
    )
    return events.fail(tx, found.id, problems.from_error(cause))


def on_worker_crash(
    tx: Transaction, recalibration_id: str, claim: int, cause: Exception, settings: Settings
) -> None:
    """After a worker crashed, queue the run again, or fail it after too many crashes."""
    if (found := store.find_claimed(tx, recalibration_id, claim)) is None:
        return
    store.count_crash(tx, recalibration_id)
    crashes = found.worker_crashes + 1
    if crashes < settings.max_worker_crashes:
        events.advance(tx, recalibration_id, Event.INTERRUPT)
        return
    error = WorkerDiedError(
        f"the worker crashed {crashes} times; the last time: {cause}", crashes=crashes
    )
    events.fail(tx, recalibration_id, problems.from_error(error))


def defer(
    tx: Transaction, recalibration_id: str, claim: int, cause: ServiceError, settings: Settings
) -> None:
    """After insufficient resources (full disk, no process), queue the run again.

    The run itself is not at fault, so this counts as an attempt and not as a crash.
    """
    if (found := store.find_claimed(tx, recalibration_id, claim)) is None:
        return
    if found.attempts >= settings.max_attempts:
        events.fail(tx, recalibration_id, problems.from_error(cause))
    else:
        events.advance(tx, recalibration_id, Event.INTERRUPT)


def release(tx: Transaction, runner: str) -> None:
    """At a graceful shutdown, queue the runs of a process again without counting the attempts."""
    for found in store.held(tx, runner):
        store.uncount_attempt(tx, found.id)
        events.advance(tx, found.id, Event.INTERRUPT)
