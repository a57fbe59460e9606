"""Recalibrations in the ledger: one row each, changed only through the lifecycle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from service import clock
from service.errors import NotFoundError
from service.repositories.lifecycle import ENDED, Event, State, after
from service.repositories.records import Recalibration
from service.storage.ledger.protocol import Row, Transaction, Value

# A new recalibration.
INSERT = """
INSERT INTO recalibration (
    id, owner, model, inputs, options, keep_data, state, created, updated
)
VALUES (:id, :owner, :model, :inputs, :options, :keep_data, 'open', :now, :now)
"""
# One recalibration.
ONE = """
SELECT * FROM recalibration WHERE id = :id AND (:owner IS NULL OR owner = :owner)
"""
# A page of recalibrations, oldest first.
PAGE = "SELECT * FROM recalibration WHERE seq > :after ORDER BY seq LIMIT :limit"
# A page of one owner's.
OWN_PAGE = """
SELECT * FROM recalibration WHERE owner = :owner AND seq > :after ORDER BY seq LIMIT :limit
"""
# The oldest in a state.
OLDEST = "SELECT * FROM recalibration WHERE state = :state ORDER BY seq LIMIT 1"
# All in a state.
IN_STATE = "SELECT * FROM recalibration WHERE state = :state ORDER BY seq"
# Move to another state. `ended` stands in each row whose state has no way out and in no other, so
# that queries tell by it what has ended.
MOVE = """
UPDATE recalibration SET state = :state, updated = :now, ended = :ended WHERE id = :id
"""
# How far the run has come.
PROGRESS = """
UPDATE recalibration
SET phase = :phase, progress_done = :done, progress_total = :total, seconds_left = :left,
    updated = :now
WHERE id = :id
"""
# A phase begins.
PHASE = "UPDATE recalibration SET phase_began = :now, phase_first = :done WHERE id = :id"
# The stream is sealed at this count.
SEAL = "UPDATE recalibration SET total = :total WHERE id = :id"
# One more run has begun, and its phases with it: the time between two attempts is nobody's pace.
COUNT_ATTEMPT = """
UPDATE recalibration SET attempts = attempts + 1, phase_began = NULL WHERE id = :id
"""
# A run that was given back in order does not count.
UNCOUNT_ATTEMPT = "UPDATE recalibration SET attempts = attempts - 1 WHERE id = :id"
# One more worker has died.
COUNT_DEATH = "UPDATE recalibration SET worker_deaths = worker_deaths + 1 WHERE id = :id"
# Why it failed.
SET_ERROR = "UPDATE recalibration SET error = :error WHERE id = :id"
# A batch has been stored.
COUNT_BATCH = """
UPDATE recalibration
SET received = received + 1, samples = samples + :samples, bytes = bytes + :bytes, updated = :now
WHERE id = :id
"""
# Forget it, and by cascade its batches, results and events.
DELETE = "DELETE FROM recalibration WHERE id = :id"
# The uploaded data is gone.
DATA_REMOVED = "UPDATE recalibration SET data_removed = 1 WHERE id = :id"
# Ended ones whose data is still there although nobody asked to keep it.
WITH_DATA = """
SELECT id FROM recalibration
WHERE ended IS NOT NULL AND keep_data = 0 AND data_removed = 0
"""
# Ended or abandoned ones whose time is over.
EXPIRED = """
SELECT id FROM recalibration
WHERE (:id IS NULL OR id = :id) AND (
    (ended IS NOT NULL AND ended < :ended_before) OR (state = 'open' AND updated < :open_before)
)
"""
# How many are in each state.
COUNTS = "SELECT state, count(*) AS found FROM recalibration GROUP BY state"
# Bytes of batches that are stored.
TOTAL = "SELECT bytes FROM stored_bytes"


def folder(recalibration: str) -> str:
    """Return the blob folder of everything that belongs to a recalibration."""
    return f"recalibrations/{recalibration}"


def insert(
    tx: Transaction,
    *,
    name: str,
    owner: str,
    model: str,
    inputs: str,
    options: str,
    keep_data: bool,
) -> Recalibration:
    """Store a new one."""
    tx.change(
        INSERT,
        id=name,
        owner=owner,
        model=model,
        inputs=inputs,
        options=options,
        keep_data=int(keep_data),
        now=clock.now(),
    )
    return get(tx, name)


def find(tx: Transaction, name: str, *, owner: str | None = None) -> Recalibration | None:
    """Return one, or None; with an owner, only when it is theirs."""
    row = tx.row(ONE, id=name, owner=owner)
    return None if row is None else _recalibration(row)


def get(tx: Transaction, name: str, *, owner: str | None = None) -> Recalibration:
    """Return one; with an owner, only when it is theirs.

    Raises:
        NotFoundError: there is none.
    """
    found = find(tx, name, owner=owner)
    if found is None:
        raise NotFoundError(f"there is no recalibration {name!r}")
    return found


def find_running(tx: Transaction, name: str) -> Recalibration | None:
    """Return one that runs; None where it does not (any more), or is gone."""
    found = find(tx, name)
    return found if found is not None and found.state is State.RUNNING else None


def page(
    tx: Transaction, *, after_seq: int, limit: int, owner: str | None = None
) -> list[Recalibration]:
    """Return recalibrations, or one owner's, in the order of their creation."""
    if owner is None:
        found = tx.rows(PAGE, after=after_seq, limit=limit)
    else:
        found = tx.rows(OWN_PAGE, owner=owner, after=after_seq, limit=limit)
    return [_recalibration(row) for row in found]


def oldest(tx: Transaction, state: State) -> Recalibration | None:
    """Return the oldest in a state, or None."""
    row = tx.row(OLDEST, state=state)
    return None if row is None else _recalibration(row)


def in_state(tx: Transaction, state: State) -> list[Recalibration]:
    """Return all in a state."""
    return [_recalibration(row) for row in tx.rows(IN_STATE, state=state)]


def move(tx: Transaction, name: str, event: Event) -> Recalibration:
    """Let an event happen.

    Raises:
        NotFoundError: there is no such recalibration.
        TransitionError: the lifecycle does not know the event in its state.
    """
    target = after(get(tx, name).state, event)
    now = clock.now()
    tx.change(MOVE, id=name, state=target, now=now, ended=now if target in ENDED else None)
    return get(tx, name)


def set_progress(
    tx: Transaction,
    name: str,
    *,
    phase: str,
    done: int,
    total: int | None,
    seconds_left: float | None,
) -> None:
    """Store how far the run has come."""
    tx.change(
        PROGRESS,
        id=name,
        phase=phase,
        done=done,
        total=total,
        left=seconds_left,
        now=clock.now(),
    )


def begin_phase(tx: Transaction, name: str, *, done: int) -> None:
    """Store that a phase begins, and where it stands."""
    tx.change(PHASE, id=name, done=done, now=clock.now())


def seal(tx: Transaction, name: str, total: int) -> None:
    """Store the number of batches of the whole stream."""
    tx.change(SEAL, id=name, total=total)


def count_attempt(tx: Transaction, name: str) -> None:
    """Count one more run."""
    tx.change(COUNT_ATTEMPT, id=name)


def uncount_attempt(tx: Transaction, name: str) -> None:
    """Take back the count of a run that was given up in good order."""
    tx.change(UNCOUNT_ATTEMPT, id=name)


def count_death(tx: Transaction, name: str) -> None:
    """Count one more death of a worker."""
    tx.change(COUNT_DEATH, id=name)


def set_error(tx: Transaction, name: str, problem: Mapping[str, Any]) -> None:
    """Store why it failed."""
    tx.change(SET_ERROR, id=name, error=json.dumps(problem))


def count_batch(tx: Transaction, name: str, *, samples: int, size: int) -> None:
    """Count one more stored batch."""
    tx.change(COUNT_BATCH, id=name, samples=samples, bytes=size, now=clock.now())


def delete(tx: Transaction, name: str) -> None:
    """Forget one; harmless when it is not there."""
    tx.change(DELETE, id=name)


def set_data_removed(tx: Transaction, name: str) -> None:
    """Note that the uploaded data is gone."""
    tx.change(DATA_REMOVED, id=name)


def with_needless_data(tx: Transaction) -> list[str]:
    """Return ended ones whose uploaded data should be gone."""
    return [str(row["id"]) for row in tx.rows(WITH_DATA)]


def expired(
    tx: Transaction, *, ended_before: str, open_before: str, name: str | None = None
) -> list[str]:
    """Return those whose time is over; with a name, that one or none."""
    found = tx.rows(EXPIRED, ended_before=ended_before, open_before=open_before, id=name)
    return [str(row["id"]) for row in found]


def counts(tx: Transaction) -> dict[str, float]:
    """Return how many recalibrations are in each state, the states without any included."""
    found = {str(row["state"]): float(row["found"] or 0) for row in tx.rows(COUNTS)}
    return dict.fromkeys(map(str, State), 0.0) | found


def total_bytes(tx: Transaction) -> int:
    """Return the bytes of all stored batches."""
    row = tx.row(TOTAL)
    assert row is not None
    return int(row["bytes"] or 0)


def _recalibration(row: Row) -> Recalibration:
    return Recalibration(
        seq=_int(row["seq"]),
        id=str(row["id"]),
        owner=str(row["owner"]),
        model=str(row["model"]),
        inputs=json.loads(str(row["inputs"])),
        options=json.loads(str(row["options"])),
        keep_data=bool(row["keep_data"]),
        state=State(str(row["state"])),
        received=_int(row["received"]),
        samples=_int(row["samples"]),
        bytes=_int(row["bytes"]),
        total=_optional_int(row["total"]),
        phase=_optional_str(row["phase"]),
        progress_done=_optional_int(row["progress_done"]),
        progress_total=_optional_int(row["progress_total"]),
        phase_began=_optional_str(row["phase_began"]),
        phase_first=_optional_int(row["phase_first"]),
        seconds_left=None if row["seconds_left"] is None else float(row["seconds_left"]),
        error=None if row["error"] is None else json.loads(str(row["error"])),
        attempts=_int(row["attempts"]),
        worker_deaths=_int(row["worker_deaths"]),
        data_removed=bool(row["data_removed"]),
        created=str(row["created"]),
        updated=str(row["updated"]),
        ended=_optional_str(row["ended"]),
    )


def _int(value: Value) -> int:
    assert isinstance(value, int)
    return value


def _optional_int(value: Value) -> int | None:
    return None if value is None else _int(value)


def _optional_str(value: Value) -> str | None:
    return None if value is None else str(value)
