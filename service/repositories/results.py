"""Results in the ledger, and the keys of their blobs."""

from __future__ import annotations

from service.errors import (
    NotFoundError,
    RecalibrationFailedError,
    RecalibrationNotFinishedError,
)
from service.repositories import recalibrations
from service.repositories.lifecycle import ENDED, State
from service.repositories.records import StoredResult
from service.storage.ledger.protocol import Transaction

# Insert a result; a repeated run replaces the results of an earlier one.
INSERT = """
INSERT INTO result (recalibration, name, bytes, sha256)
VALUES (:recalibration_id, :name, :bytes, :sha256)
ON CONFLICT (recalibration, name) DO UPDATE SET bytes = excluded.bytes, sha256 = excluded.sha256
"""
# One result.
ONE = """
SELECT name, bytes, sha256 FROM result WHERE recalibration = :recalibration_id AND name = :name
"""


def key(recalibration_id: str, name: str) -> str:
    """Return the blob key of a result."""
    return f"{recalibrations.folder(recalibration_id)}/results/{name}"


def insert(tx: Transaction, recalibration_id: str, result: StoredResult) -> None:
    """Insert a result."""
    tx.change(
        INSERT,
        recalibration_id=recalibration_id,
        name=result.name,
        bytes=result.bytes,
        sha256=result.sha256,
    )


def get(tx: Transaction, recalibration_id: str, name: str) -> StoredResult:
    """Return a result.

    Raises:
        NotFoundError: there is no such recalibration.
        RecalibrationNotFinishedError: there is no result yet.
        RecalibrationFailedError: the recalibration ended without a result.
    """
    found = recalibrations.get(tx, recalibration_id)
    if found.state not in ENDED:
        raise RecalibrationNotFinishedError(
            f"the recalibration is {found.state}", state=str(found.state)
        )
    if found.state is not State.SUCCEEDED:
        cause = (found.error or {}).get("detail", "it was cancelled")
        raise RecalibrationFailedError(
            f"the recalibration is {found.state}: {cause}", state=str(found.state)
        )
    row = tx.row(ONE, recalibration_id=recalibration_id, name=name)
    if row is None:
        raise NotFoundError(f"the recalibration has no {name}")
    return StoredResult(name=name, bytes=int(row["bytes"] or 0), sha256=str(row["sha256"]))
