"""What happens to a run that was interrupted."""

from __future__ import annotations

from service import problems
from service.errors import ServiceError, WorkerDiedError
from service.recalibrations import events
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event, State
from service.repositories.records import Recalibration
from service.settings import Settings
from service.storage.ledger.protocol import Transaction


def requeue_interrupted(tx: Transaction, settings: Settings) -> list[Recalibration]:
    """At the start of a server, queue the runs that the last server left; return them.

    A run that was started too often fails instead, whether the worker or the server died each time:
    the run itself may be what kills the server.
    """
    return [_requeue(tx, found, settings) for found in store.in_state(tx, State.RUNNING)]


def _requeue(tx: Transaction, found: Recalibration, settings: Settings) -> Recalibration:
    if found.attempts < settings.max_attempts:
        return events.advance(tx, found.id, Event.INTERRUPT)
    cause = WorkerDiedError(
        f"the run was started {found.attempts} times and interrupted each time",
        attempts=found.attempts,
    )
    return events.fail(tx, found.id, problems.from_error(cause))


def on_worker_crash(
    tx: Transaction, recalibration_id: str, cause: Exception, settings: Settings
) -> None:
    """After a worker crashed, queue the run again, or fail it after too many crashes."""
    if (found := store.find_running(tx, recalibration_id)) is None:
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


def defer(tx: Transaction, recalibration_id: str, cause: ServiceError, settings: Settings) -> None:
    """After insufficient resources (full disk, no process), queue the run again.

    The run itself is not at fault, so this counts as an attempt and not as a crash.
    """
    if (found := store.find_running(tx, recalibration_id)) is None:
        return
    if found.attempts >= settings.max_attempts:
        events.fail(tx, recalibration_id, problems.from_error(cause))
    else:
        events.advance(tx, recalibration_id, Event.INTERRUPT)


def release(tx: Transaction, recalibration_id: str) -> None:
    """At a graceful shutdown, queue the run again without counting the attempt."""
    if store.find_running(tx, recalibration_id) is None:
        return
    store.uncount_attempt(tx, recalibration_id)
    events.advance(tx, recalibration_id, Event.INTERRUPT)
