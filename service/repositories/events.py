"""Events of recalibrations in the ledger."""

from __future__ import annotations

from service.repositories.records import StoredEvent
from service.storage.ledger.protocol import Transaction

# Append an event with the next number of its recalibration.
APPEND = """
INSERT INTO event (recalibration, seq, kind, data)
SELECT :recalibration_id, coalesce(max(seq), 0) + 1, :kind, :data
FROM event WHERE recalibration = :recalibration_id
"""
# Delete old progress events; events of state changes stay.
PRUNE = """
DELETE FROM event WHERE recalibration = :recalibration_id AND kind = 'progress' AND seq < (
    SELECT max(seq) FROM event WHERE recalibration = :recalibration_id
) - :keep
"""
# Events after a number, oldest first.
SINCE = """
SELECT seq, kind, data FROM event
WHERE recalibration = :recalibration_id AND seq > :after ORDER BY seq LIMIT 500
"""
# Number of the last event.
LAST = """
SELECT coalesce(max(seq), 0) AS last FROM event WHERE recalibration = :recalibration_id
"""
# Delete what was measured before the last event.
FORGET_LAYERS = """
DELETE FROM event WHERE recalibration = :recalibration_id AND kind = 'layers' AND seq < (
    SELECT max(seq) FROM event WHERE recalibration = :recalibration_id
)
"""
LAYERS = """
SELECT data FROM event WHERE recalibration = :recalibration_id AND kind = 'layers' ORDER BY seq
"""


def last(tx: Transaction, recalibration_id: str) -> int:
    """Return the number of the last event; 0 if there is none."""
    row = tx.row(LAST, recalibration_id=recalibration_id)
    assert row is not None
    return int(row["last"] or 0)


def append(tx: Transaction, recalibration_id: str, *, kind: str, data: str) -> None:
    """Append an event."""
    tx.change(APPEND, recalibration_id=recalibration_id, kind=kind, data=data)


def prune_progress(tx: Transaction, recalibration_id: str, *, keep: int) -> None:
    """Delete progress events that are not among the last `keep` events."""
    tx.change(PRUNE, recalibration_id=recalibration_id, keep=keep)


def forget_layers(tx: Transaction, recalibration_id: str) -> None:
    """Delete the events of measured layers that come before the last event."""
    tx.change(FORGET_LAYERS, recalibration_id=recalibration_id)


def layers(tx: Transaction, recalibration_id: str) -> list[str]:
    """Return the data of the events of measured layers, oldest first."""
    return [str(row["data"]) for row in tx.rows(LAYERS, recalibration_id=recalibration_id)]


def since(tx: Transaction, recalibration_id: str, after: int) -> list[StoredEvent]:
    """Return the events after an event number, oldest first, at most 500."""
    return [
        StoredEvent(seq=int(row["seq"] or 0), kind=str(row["kind"]), data=str(row["data"]))
        for row in tx.rows(SINCE, recalibration_id=recalibration_id, after=after)
    ]
