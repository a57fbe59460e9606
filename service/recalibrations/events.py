"""Change a recalibration and append the event that reports it, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from service import clock
from service.recalibrations import eta
from service.recalibrations.schemas import RecalibrationOut
from service.repositories import events as log
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event
from service.repositories.records import Recalibration, StoredEvent
from service.storage.ledger.protocol import Transaction
from service.workers.protocol import Progress

MAX_PROGRESS_EVENTS = 200
# The phase of bn_ops that reads the source stream.
SOURCE_PHASE = "inserting"


def advance(tx: Transaction, recalibration_id: str, event: Event) -> Recalibration:
    """Apply a lifecycle event and append it to the log.

    Raises:
        NotFoundError, TransitionError: see `service.repositories.recalibrations.move`.
    """
    return _append(tx, store.move(tx, recalibration_id, event), "state")


def fail(tx: Transaction, recalibration_id: str, problem: Mapping[str, Any]) -> Recalibration:
    """End a run without a result, with a problem document."""
    store.set_error(tx, recalibration_id, problem)
    return advance(tx, recalibration_id, Event.FAIL)


def progress(tx: Transaction, recalibration_id: str, step: Progress) -> None:
    """Store the progress of a run; does nothing if it no longer runs."""
    if (found := store.find_running(tx, recalibration_id)) is None:
        return
    # The engine does not know the lengths of the streams, but the ledger does.
    length = found.source_total if step.phase == SOURCE_PHASE else found.total
    step = step if step.total is not None else replace(step, total=length)
    left = None
    if eta.starts_phase(found, step):
        store.begin_phase(tx, recalibration_id, done=step.done)
    else:
        left = eta.seconds_left(found, step, clock.now())
    store.set_progress(
        tx, recalibration_id, phase=step.phase, done=step.done, total=step.total, seconds_left=left
    )
    _append(tx, store.get(tx, recalibration_id), "progress")
    log.prune_progress(tx, recalibration_id, keep=MAX_PROGRESS_EVENTS)


def created(tx: Transaction, found: Recalibration) -> Recalibration:
    """Append the event for a new recalibration."""
    return _append(tx, found, "state")


def since(tx: Transaction, recalibration_id: str, after: int) -> list[StoredEvent]:
    """Return the events after an event number, oldest first."""
    return log.since(tx, recalibration_id, after)


def _append(tx: Transaction, found: Recalibration, kind: str) -> Recalibration:
    log.append(tx, found.id, kind=kind, data=RecalibrationOut.of(found).model_dump_json())
    return found
