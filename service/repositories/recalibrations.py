"""Recalibrations in the ledger: one row each; the state changes only through the lifecycle."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from service import clock
from service.errors import NotFoundError
from service.repositories.lifecycle import ENDED, Event, State, after
from service.repositories.records import Recalibration, Stream
from service.storage.ledger.protocol import Row, Transaction, Value

# Characters of a search text that LIKE would take as wildcards, and the escape itself.
_ESCAPED = re.compile(r"[%_!]")

# Insert a recalibration.
INSERT = """
INSERT INTO recalibration (
    id, owner, name, tags, model, inputs, options, keep_data, state, created, updated
)
VALUES (:id, :owner, :name, :tags, :model, :inputs, :options, :keep_data, 'open', :now, :now)
"""
# One recalibration, optionally only if it belongs to an owner.
ONE = """
SELECT * FROM recalibration WHERE id = :id AND (CAST(:owner AS TEXT) IS NULL OR owner = :owner)
"""
# A page of all recalibrations, oldest first.
PAGE = "SELECT * FROM recalibration WHERE seq > :after ORDER BY seq LIMIT :limit"
# A page of one owner's recalibrations, oldest first.
OWN_PAGE = """
SELECT * FROM recalibration WHERE owner = :owner AND seq > :after ORDER BY seq LIMIT :limit
"""
# A page of recalibrations, optionally of one owner, the newest first, whose name, tags, id, model,
# state or verdict contain a text. The caller escapes the pattern.
NEWEST = """
SELECT * FROM recalibration
WHERE seq < :before
    AND (CAST(:owner AS TEXT) IS NULL OR owner = :owner)
    AND (CAST(:pattern AS TEXT) IS NULL
        OR lower(name) LIKE :pattern ESCAPE '!' OR lower(tags) LIKE :pattern ESCAPE '!'
        OR id LIKE :pattern ESCAPE '!'
        OR model LIKE :pattern ESCAPE '!' OR state LIKE :pattern ESCAPE '!'
        OR verdict_code LIKE :pattern ESCAPE '!')
ORDER BY seq DESC LIMIT :limit
"""
# The oldest recalibration in a state.
OLDEST = "SELECT * FROM recalibration WHERE state = :state ORDER BY seq LIMIT 1"
# All recalibrations in a state, oldest first.
IN_STATE = "SELECT * FROM recalibration WHERE state = :state ORDER BY seq"
# Change the state. `ended` is set exactly in the rows whose state is final; other queries use it to
# find them.
MOVE = """
UPDATE recalibration SET state = :state, updated = :now, ended = :ended WHERE id = :id
"""
# Store the progress of the current run.
PROGRESS = """
UPDATE recalibration
SET phase = :phase, progress_done = :done, progress_total = :total, seconds_left = :left,
    updated = :now
WHERE id = :id
"""
# Store the start of a phase.
PHASE = "UPDATE recalibration SET phase_began = :now, phase_first = :done WHERE id = :id"
# Seal both streams with their numbers of batches.
SEAL = """
UPDATE recalibration SET total = :total, source_total = :source_total, options = :options
WHERE id = :id
"""
# Give a run to a process and count it. The phase starts again as well: the time between two
# attempts must not count towards its rate.
CLAIM = """
UPDATE recalibration
SET attempts = attempts + 1, claims = claims + 1, runner = :runner, lease_until = :until,
    phase_began = NULL
WHERE id = :id
"""
# Extend the lease of a run.
RENEW = """
UPDATE recalibration SET lease_until = :until
WHERE id = :id AND state = 'running' AND claims = :claim
"""
# Runs whose lease is over; runs from before there were leases have none.
ABANDONED = """
SELECT * FROM recalibration
WHERE state = 'running' AND (lease_until IS NULL OR lease_until < :now) ORDER BY seq
"""
# Runs of one process.
HELD = "SELECT * FROM recalibration WHERE state = 'running' AND runner = :runner ORDER BY seq"
# Do not count a run that a graceful shutdown interrupted.
UNCOUNT_ATTEMPT = "UPDATE recalibration SET attempts = attempts - 1 WHERE id = :id"
# Count a crash of a worker.
COUNT_CRASH = "UPDATE recalibration SET worker_crashes = worker_crashes + 1 WHERE id = :id"
# Store the report's verdict.
SET_VERDICT = """
UPDATE recalibration SET verdict = :verdict, verdict_code = :code WHERE id = :id
"""
# Store why it failed.
SET_ERROR = "UPDATE recalibration SET error = :error WHERE id = :id"
# Count stored batches of the target stream.
COUNT_BATCHES = """
UPDATE recalibration
SET received = received + :count, samples = samples + :samples, bytes = bytes + :bytes,
    updated = :now
WHERE id = :id
"""
# Count stored batches of the source stream.
COUNT_SOURCE_BATCHES = """
UPDATE recalibration
SET source_received = source_received + :count, source_samples = source_samples + :samples,
    source_bytes = source_bytes + :bytes, bytes = bytes + :bytes, updated = :now
WHERE id = :id
"""
# Delete a recalibration, and by cascade its batches, results and events.
DELETE = "DELETE FROM recalibration WHERE id = :id"
# Mark the uploaded data as removed.
DATA_REMOVED = "UPDATE recalibration SET data_removed = 1 WHERE id = :id"
# Ended recalibrations whose data is still stored although it should not be kept.
WITH_DATA = """
SELECT id FROM recalibration
WHERE ended IS NOT NULL AND keep_data = 0 AND data_removed = 0
"""
# Recalibrations that ended, or were last used, before the given times.
EXPIRED = """
SELECT id FROM recalibration
WHERE (CAST(:id AS TEXT) IS NULL OR id = :id) AND (
    (ended IS NOT NULL AND ended < :ended_before) OR (state = 'open' AND updated < :open_before)
)
"""
# Number of recalibrations in each state.
COUNTS = "SELECT state, count(*) AS found FROM recalibration GROUP BY state"
# Bytes of all stored batches.
TOTAL = "SELECT bytes FROM stored_bytes"


def folder(recalibration_id: str) -> str:
    """Return the blob folder of a recalibration."""
    return f"recalibrations/{recalibration_id}"


def insert(
    tx: Transaction,
    *,
    recalibration_id: str,
    owner: str,
    model: str,
    inputs: str,
    options: str,
    keep_data: bool,
    name: str = "",
    tags: Sequence[str] = (),
) -> Recalibration:
    """Insert a recalibration and return it; `inputs` and `options` are JSON."""
    tx.change(
        INSERT,
        id=recalibration_id,
        owner=owner,
        name=name,
        tags="\n".join(tags),
        model=model,
        inputs=inputs,
        options=options,
        keep_data=int(keep_data),
        now=clock.now(),
    )
    return get(tx, recalibration_id)


def fetch(tx: Transaction, ids: Sequence[str]) -> Callable[[], dict[str, Recalibration]]:
    """Send the query of many ids; the result waits for the recalibrations that exist."""
    found = tx.fetch(ONE, [{"id": one, "owner": None} for one in ids])
    return lambda: {
        one: _recalibration(rows[0]) for one, rows in zip(ids, found(), strict=True) if rows
    }


def find(
    tx: Transaction, recalibration_id: str, *, owner: str | None = None
) -> Recalibration | None:
    """Return a recalibration, or None; with an owner, only if it belongs to that owner."""
    row = tx.row(ONE, id=recalibration_id, owner=owner)
    return None if row is None else _recalibration(row)


def get(tx: Transaction, recalibration_id: str, *, owner: str | None = None) -> Recalibration:
    """Return a recalibration; with an owner, only if it belongs to that owner.

    Raises:
        NotFoundError: there is no such recalibration.
    """
    found = find(tx, recalibration_id, owner=owner)
    if found is None:
        raise missing(recalibration_id)
    return found


def missing(recalibration_id: str) -> NotFoundError:
    """Return the error for a recalibration that does not exist."""
    return NotFoundError(f"there is no recalibration {recalibration_id!r}")


def find_claimed(tx: Transaction, recalibration_id: str, claim: int) -> Recalibration | None:
    """Return a recalibration that runs under a claim, None if it no longer does.

    Each write of a run asks this first. So a process that was stopped for longer than its lease
    cannot change the run that another process has claimed in the meantime.
    """
    found = find(tx, recalibration_id)
    if found is None or found.state is not State.RUNNING or found.claims != claim:
        return None
    return found


def page(
    tx: Transaction, *, after_seq: int, limit: int, owner: str | None = None
) -> list[Recalibration]:
    """Return recalibrations, or those of one owner, in the order of creation."""
    if owner is None:
        found = tx.rows(PAGE, after=after_seq, limit=limit)
    else:
        found = tx.rows(OWN_PAGE, owner=owner, after=after_seq, limit=limit)
    return [_recalibration(row) for row in found]


def newest(
    tx: Transaction,
    *,
    before_seq: int,
    limit: int,
    search: str | None = None,
    owner: str | None = None,
) -> list[Recalibration]:
    """Return recalibrations, or those of one owner, the newest first.

    Args:
        tx: the transaction.
        before_seq: only those that were created before this one.
        limit: maximum number.
        search: only those whose name, tags, id, model, state or verdict contain this text; ASCII
            letters match in either case.
        owner: only those of this owner.
    """
    pattern = None if search is None else "%" + _ESCAPED.sub(r"!\g<0>", search.lower()) + "%"
    found = tx.rows(NEWEST, before=before_seq, limit=limit, pattern=pattern, owner=owner)
    return [_recalibration(row) for row in found]


def oldest(tx: Transaction, state: State) -> Recalibration | None:
    """Return the oldest recalibration in a state, or None."""
    row = tx.row(OLDEST, state=state)
    return None if row is None else _recalibration(row)


def in_state(tx: Transaction, state: State) -> list[Recalibration]:
    """Return all recalibrations in a state, oldest first."""
    return [_recalibration(row) for row in tx.rows(IN_STATE, state=state)]


def move(tx: Transaction, recalibration_id: str, event: Event) -> Recalibration:
    """Apply a lifecycle event and return the changed recalibration.

    Raises:
        NotFoundError: there is no such recalibration.
        TransitionError: its state does not allow the event.
    """
    target = after(get(tx, recalibration_id).state, event)
    now = clock.now()
    ended = now if target in ENDED else None
    tx.change(MOVE, id=recalibration_id, state=target, now=now, ended=ended)
    return get(tx, recalibration_id)


def set_progress(
    tx: Transaction,
    recalibration_id: str,
    *,
    phase: str,
    done: int,
    total: int | None,
    seconds_left: float | None,
) -> None:
    """Store the progress of the current run."""
    tx.change(
        PROGRESS,
        id=recalibration_id,
        phase=phase,
        done=done,
        total=total,
        left=seconds_left,
        now=clock.now(),
    )


def begin_phase(tx: Transaction, recalibration_id: str, *, done: int) -> None:
    """Store the start of a phase and its progress at that time."""
    tx.change(PHASE, id=recalibration_id, done=done, now=clock.now())


def seal(
    tx: Transaction,
    recalibration_id: str,
    *,
    total: int,
    source_total: int,
    report: Mapping[str, Any] | None = None,
    traceparent: str | None = None,
) -> None:
    """Store the numbers of batches of the complete streams, and details that the run needs.

    Args:
        tx: the transaction.
        recalibration_id: the recalibration.
        total: number of batches.
        source_total: number of source batches.
        report: the details of the report.
        traceparent: the span that the run continues.
    """
    options = get(tx, recalibration_id).options
    if report is not None:
        options = {**options, "report": report}
    if traceparent is not None:
        options = {**options, "traceparent": traceparent}
    tx.change(
        SEAL,
        id=recalibration_id,
        total=total,
        source_total=source_total,
        options=json.dumps(options),
    )


def claim(tx: Transaction, recalibration_id: str, *, runner: str, lease_seconds: float) -> None:
    """Give a run that starts to a process for some time, and count it."""
    until = tx.clock() + lease_seconds
    tx.change(CLAIM, id=recalibration_id, runner=runner, until=until)


def renew(tx: Transaction, recalibration_id: str, claim: int, *, lease_seconds: float) -> None:
    """Extend the lease of a run under its claim, also if the lease is just over."""
    tx.change(RENEW, id=recalibration_id, claim=claim, until=tx.clock() + lease_seconds)


def abandoned(tx: Transaction, ended: Collection[str] = ()) -> list[Recalibration]:
    """Return the runs whose lease is over, or whose process is known to have ended."""
    found = {row["id"]: row for row in tx.rows(ABANDONED, now=tx.clock())}
    for runner in ended:
        found |= {row["id"]: row for row in tx.rows(HELD, runner=runner)}
    return [_recalibration(row) for row in found.values()]


def held(tx: Transaction, runner: str) -> list[Recalibration]:
    """Return the runs of a process."""
    return [_recalibration(row) for row in tx.rows(HELD, runner=runner)]


def uncount_attempt(tx: Transaction, recalibration_id: str) -> None:
    """Do not count a run that a graceful shutdown interrupted."""
    tx.change(UNCOUNT_ATTEMPT, id=recalibration_id)


def count_crash(tx: Transaction, recalibration_id: str) -> None:
    """Count a crash of a worker."""
    tx.change(COUNT_CRASH, id=recalibration_id)


def set_error(tx: Transaction, recalibration_id: str, problem: Mapping[str, Any]) -> None:
    """Store the problem document of a failure."""
    tx.change(SET_ERROR, id=recalibration_id, error=json.dumps(problem))


def set_verdict(tx: Transaction, recalibration_id: str, verdict: Mapping[str, Any]) -> None:
    """Store the verdict of a report, in its JSON form."""
    tx.change(
        SET_VERDICT, id=recalibration_id, verdict=json.dumps(verdict), code=verdict.get("code")
    )


def count_batches(
    tx: Transaction, recalibration_id: str, stream: Stream, *, count: int, samples: int, size: int
) -> None:
    """Count stored batches of a stream, with their samples and bytes."""
    query = COUNT_BATCHES if stream is Stream.TARGET else COUNT_SOURCE_BATCHES
    now = clock.now()
    tx.submit(query, id=recalibration_id, count=count, samples=samples, bytes=size, now=now)


def delete(tx: Transaction, recalibration_id: str) -> None:
    """Delete a recalibration if it exists."""
    tx.change(DELETE, id=recalibration_id)


def set_data_removed(tx: Transaction, recalibration_id: str) -> None:
    """Mark the uploaded data of a recalibration as removed."""
    tx.change(DATA_REMOVED, id=recalibration_id)


def with_data_to_remove(tx: Transaction) -> list[str]:
    """Return the ids of ended recalibrations whose uploaded data should be removed."""
    return [str(row["id"]) for row in tx.rows(WITH_DATA)]


def expired(
    tx: Transaction, *, ended_before: str, open_before: str, recalibration_id: str | None = None
) -> list[str]:
    """Return the ids of expired recalibrations; with an id, at most that one."""
    found = tx.rows(
        EXPIRED, ended_before=ended_before, open_before=open_before, id=recalibration_id
    )
    return [str(row["id"]) for row in found]


def counts(tx: Transaction) -> dict[str, float]:
    """Return the number of recalibrations in each state, including states with none."""
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
        name=str(row["name"]),
        tags=tuple(str(row["tags"]).split("\n")) if row["tags"] else (),
        model=str(row["model"]),
        inputs=json.loads(str(row["inputs"])),
        options=json.loads(str(row["options"])),
        keep_data=bool(row["keep_data"]),
        state=State(str(row["state"])),
        received=_int(row["received"]),
        samples=_int(row["samples"]),
        bytes=_int(row["bytes"]),
        total=_optional_int(row["total"]),
        source_received=_int(row["source_received"]),
        source_samples=_int(row["source_samples"]),
        source_bytes=_int(row["source_bytes"]),
        source_total=_optional_int(row["source_total"]),
        phase=_optional_str(row["phase"]),
        progress_done=_optional_int(row["progress_done"]),
        progress_total=_optional_int(row["progress_total"]),
        phase_began=_optional_str(row["phase_began"]),
        phase_first=_optional_int(row["phase_first"]),
        seconds_left=None if row["seconds_left"] is None else float(row["seconds_left"]),
        error=None if row["error"] is None else json.loads(str(row["error"])),
        verdict=None if row["verdict"] is None else json.loads(str(row["verdict"])),
        attempts=_int(row["attempts"]),
        worker_crashes=_int(row["worker_crashes"]),
        claims=_int(row["claims"]),
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
