"""Changes of a recalibration together with the events that tell of them, in one transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from service import clock
from service.recalibrations import eta as pace
from service.recalibrations.schemas import RecalibrationOut
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event
from service.repositories.records import Recalibration
from service.storage.ledger.protocol import Transaction
from service.workers.protocol import Progress

# The next event of a recalibration.
APPEND = """
INSERT INTO event (recalibration, seq, kind, data)
SELECT :id, coalesce(max(seq), 0) + 1, :kind, :data FROM event WHERE recalibration = :id
"""
# Old progress tells nobody anything; states stay.
PRUNE = """
DELETE FROM event WHERE recalibration = :id AND kind = 'progress' AND seq < (
    SELECT max(seq) FROM event WHERE recalibration = :id
) - :keep
"""
# What happened after a point.
SINCE = """
SELECT seq, kind, data FROM event WHERE recalibration = :id AND seq > :after ORDER BY seq LIMIT 500
"""

KEPT_PROGRESS_EVENTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """Something that happened: its number, `state` or `progress`, and the recalibration as JSON."""

    seq: int
    kind: str
    data: str


def advance(tx: Transaction, name: str, event: Event) -> Recalibration:
    """Let an event of the lifecycle happen and write it down.

    Raises:
        NotFoundError, TransitionError: as `store.move`.
    """
    return _tell(tx, store.move(tx, name, event), "state")


def fail(tx: Transaction, name: str, problem: Mapping[str, Any]) -> Recalibration:
    """Let a run end without a result, with the reason."""
    store.set_error(tx, name, problem)
    return advance(tx, name, Event.FAIL)


def progress(tx: Transaction, name: str, step: Progress) -> None:
    """Write down how far a run has come; nothing when it no longer runs."""
    if (found := store.find_running(tx, name)) is None:
        return
    # The stream's length is known here; the engine reads on until it ends.
    step = step if step.total is not None else replace(step, total=found.total)
    left = None
    if pace.begins_anew(found, step):
        store.begin_phase(tx, name, done=step.done)
    else:
        left = pace.seconds_left(found, step, clock.now())
    store.set_progress(
        tx, name, phase=step.phase, done=step.done, total=step.total, seconds_left=left
    )
    _tell(tx, store.get(tx, name), "progress")
    tx.change(PRUNE, id=name, keep=KEPT_PROGRESS_EVENTS)


def created(tx: Transaction, found: Recalibration) -> Recalibration:
    """Write down that a recalibration has come into being."""
    return _tell(tx, found, "state")


def since(tx: Transaction, name: str, after: int) -> list[StoredEvent]:
    """Return what happened after an event number, oldest first."""
    return [
        StoredEvent(seq=int(row["seq"] or 0), kind=str(row["kind"]), data=str(row["data"]))
        for row in tx.rows(SINCE, id=name, after=after)
    ]


def _tell(tx: Transaction, found: Recalibration, kind: str) -> Recalibration:
    tx.change(APPEND, id=found.id, kind=kind, data=RecalibrationOut.of(found).model_dump_json())
    return found
