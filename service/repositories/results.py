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
from service.storage.blobs.protocol import BlobContent
from service.storage.ledger.protocol import Transaction

# Insert a result.
INSERT = """
INSERT INTO result (recalibration, name, bytes, sha256, claim)
VALUES (:recalibration_id, :name, :bytes, :sha256, :claim)
"""
# One result.
ONE = "SELECT * FROM result WHERE recalibration = :recalibration_id AND name = :name"


def folder(recalibration_id: str, claim: int | None = None) -> str:
    """Return the blob folder of all results of a recalibration, or of those of one claim.

    Each run writes into a folder of its own. The rows name the run that succeeded, so files of
    another run that ends late are never used.
    """
    results = f"{recalibrations.folder(recalibration_id)}/results"
    return results if claim is None else f"{results}/{claim}"


def key(recalibration_id: str, name: str, claim: int | None) -> str:
    """Return the blob key of a result."""
    return f"{folder(recalibration_id, claim)}/{name}"


def content(recalibration_id: str, result: StoredResult) -> BlobContent:
    """Return what the blob of a result must contain."""
    return BlobContent(
        key=key(recalibration_id, result.name, result.claim),
        bytes=result.bytes,
        sha256=result.sha256,
    )


def insert(tx: Transaction, recalibration_id: str, result: StoredResult) -> None:
    """Insert a result."""
    tx.change(
        INSERT,
        recalibration_id=recalibration_id,
        name=result.name,
        bytes=result.bytes,
        sha256=result.sha256,
        claim=result.claim,
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
            f"the recalibration has not ended: its state is {found.state}", state=str(found.state)
        )
    if found.state is not State.SUCCEEDED:
        cause = (found.error or {}).get("detail", "it was cancelled")
        raise RecalibrationFailedError(
            f"the recalibration is {found.state}: {cause}", state=str(found.state)
        )
    row = tx.row(ONE, recalibration_id=recalibration_id, name=name)
    if row is None:
        raise NotFoundError(f"the recalibration has no {name}")
    return StoredResult(
        name=name,
        bytes=int(row["bytes"] or 0),
        sha256=str(row["sha256"]),
        claim=None if row["claim"] is None else int(row["claim"]),
    )
