"""Change a recalibration and append the event that reports it, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from service import clock
from service.recalibrations.schemas import (
    MAX_LAYER_NAME,
    MeasuredLayerOut,
    MeasuredLayersOut,
    RecalibrationOut,
)
from service.repositories import events as log
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event
from service.repositories.records import Recalibration, StoredEvent
from service.storage.ledger.protocol import Transaction
from service.workers.protocol import Progress

MAX_PROGRESS_EVENTS = 200
# The phase of bn_ops that reads the source stream.
SOURCE_PHASE = "inserting"
# A rate over a shorter time is not informative: the first steps load libraries and fill caches.
MIN_RATE_SECONDS = 0.5


def advance(tx: Transaction, recalibration_id: str, event: Event) -> Recalibration:
    """Apply a lifecycle event and append it to the log.

    A run that begins measures all layers again, so what an earlier attempt measured is deleted.

    Raises:
        NotFoundError, TransitionError: see `service.repositories.recalibrations.move`.
    """
    found = _append(tx, store.move(tx, recalibration_id, event), "state")
    if event is Event.BEGIN:
        log.forget_layers(tx, recalibration_id)
    return found


def fail(tx: Transaction, recalibration_id: str, problem: Mapping[str, Any]) -> Recalibration:
    """End a run without a result, with a problem document."""
    store.set_error(tx, recalibration_id, problem)
    return advance(tx, recalibration_id, Event.FAIL)


def progress(tx: Transaction, recalibration_id: str, claim: int, step: Progress) -> None:
    """Store the progress of a run; does nothing if it no longer runs under its claim."""
    if (found := store.find_claimed(tx, recalibration_id, claim)) is None:
        return
    # The engine does not know the lengths of the streams, but the ledger does.
    length = found.source_total if step.phase == SOURCE_PHASE else found.total
    step = step if step.total is not None else replace(step, total=length)
    left = None
    if starts_phase(found, step):
        store.begin_phase(tx, recalibration_id, done=step.done)
    else:
        left = seconds_left(found, step, clock.now())
    store.set_progress(
        tx, recalibration_id, phase=step.phase, done=step.done, total=step.total, seconds_left=left
    )
    _append(tx, store.get(tx, recalibration_id), "progress")
    log.prune_progress(tx, recalibration_id, keep=MAX_PROGRESS_EVENTS)
    if step.layers:
        form = MeasuredLayersOut(
            layers=[
                MeasuredLayerOut(name=one.name[:MAX_LAYER_NAME], drift=one.drift)
                for one in step.layers
            ],
            total=step.layers_total,
        )
        log.append(tx, recalibration_id, kind="layers", data=form.model_dump_json())


def layers(tx: Transaction, recalibration_id: str) -> MeasuredLayersOut:
    """Return all layers that the current or last run has measured.

    A layer that was measured several times has its last value.
    """
    parts = [MeasuredLayersOut.model_validate_json(one) for one in log.layers(tx, recalibration_id)]
    last = {layer.name: layer for part in parts for layer in part.layers}
    return MeasuredLayersOut(layers=list(last.values()), total=parts[-1].total if parts else None)


def created(tx: Transaction, found: Recalibration) -> Recalibration:
    """Append the event for a new recalibration."""
    return _append(tx, found, "state")


def since(tx: Transaction, recalibration_id: str, after: int) -> list[StoredEvent]:
    """Return the events after an event number, oldest first."""
    return log.since(tx, recalibration_id, after)


def _append(tx: Transaction, found: Recalibration, kind: str) -> Recalibration:
    log.append(tx, found.id, kind=kind, data=RecalibrationOut.of(found).model_dump_json())
    if kind == "state":  # notifications slow commits down, and progress is frequent
        tx.notify(found.id)
    return found


def starts_phase(found: Recalibration, step: Progress) -> bool:
    """Return whether a step is the first of a phase, also of the same phase in another attempt."""
    return (
        found.phase != step.phase
        or found.phase_began is None
        or found.progress_done is None
        or step.done < found.progress_done
    )


def seconds_left(found: Recalibration, step: Progress, now: str) -> float | None:
    """Return the estimate (total - done) · elapsed ÷ (done since the phase began).

    The ledger stores when a phase began and its progress at that time, so an estimate survives a
    restart of the server.

    Args:
        found: the recalibration with the start of its phase.
        step: the current progress.
        now: RFC 3339 UTC.

    Returns:
        Seconds; None while the total or the rate is unknown.
    """
    if step.total is None or found.phase_began is None or found.phase_first is None:
        return None
    began = datetime.fromisoformat(found.phase_began)
    elapsed = (datetime.fromisoformat(now) - began).total_seconds()
    done = step.done - found.phase_first
    if done <= 0 or elapsed < MIN_RATE_SECONDS:
        return None
    return round(max(0, step.total - step.done) * elapsed / done, 1)
