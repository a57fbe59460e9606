"""Results: files that a run has left, made durable before the ledger says that it has succeeded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from service.errors import (
    NotFoundError,
    RecalibrationFailedError,
    RecalibrationNotFinishedError,
)
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED, State
from service.storage.blobs.protocol import Blobs
from service.storage.checksums import sha256_of
from service.storage.ledger.protocol import Transaction
from service.storage.os_errors import translated
from service.workers.protocol import RESULTS

# A result; a run that begins again replaces what an earlier one left.
INSERT = """
INSERT INTO result (recalibration, name, bytes, sha256) VALUES (:id, :name, :bytes, :sha256)
ON CONFLICT (recalibration, name) DO UPDATE SET bytes = excluded.bytes, sha256 = excluded.sha256
"""
# One result.
ONE = "SELECT name, bytes, sha256 FROM result WHERE recalibration = :id AND name = :name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One file: its name in the results' folder, size, and SHA-256 in hexadecimal."""

    name: str
    bytes: int
    sha256: str


def key(recalibration: str, name: str) -> str:
    """Return the blob key of a result."""
    return f"{store.folder(recalibration)}/results/{name}"


def adopt(blobs: Blobs, recalibration: str, output: Path) -> list[Result]:
    """Make a worker's files durable; blocks."""
    found = []
    for name in RESULTS:
        file = output / name
        with translated():
            digest = sha256_of(file)
            size = file.stat().st_size
        found.append(Result(name=name, bytes=size, sha256=digest))
        blobs.adopt(file, key(recalibration, name))
    return found


def insert(tx: Transaction, recalibration: str, result: Result) -> None:
    """Note a result."""
    tx.change(
        INSERT,
        id=recalibration,
        name=result.name,
        bytes=result.bytes,
        sha256=result.sha256,
    )


def get(tx: Transaction, recalibration: str, name: str) -> Result:
    """Return a result.

    Raises:
        NotFoundError: there is no such recalibration.
        RecalibrationNotFinishedError: there is no result yet.
        RecalibrationFailedError: there will be none.
    """
    found = store.get(tx, recalibration)
    if found.state not in ENDED:
        raise RecalibrationNotFinishedError(
            f"the recalibration is {found.state}", state=str(found.state)
        )
    if found.state is not State.SUCCEEDED:
        cause = (found.error or {}).get("detail", "it was cancelled")
        raise RecalibrationFailedError(
            f"the recalibration is {found.state}: {cause}", state=str(found.state)
        )
    row = tx.row(ONE, id=recalibration, name=name)
    if row is None:
        raise NotFoundError(f"the recalibration has no {name}")
    return Result(name=name, bytes=int(row["bytes"] or 0), sha256=str(row["sha256"]))
