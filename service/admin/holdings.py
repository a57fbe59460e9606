"""Every file that the ledger says must be there, and every file that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.batches import store as batches
from service.ledger.protocol import Transaction
from service.models import store as models
from service.recalibrations import results

# The models' files.
MODELS = "SELECT id, bytes FROM model"
# The batches' files.
BATCHES = """
SELECT recalibration, blob, batch.bytes, sha256 FROM batch JOIN recalibration ON id = recalibration
WHERE data_removed = 0
"""
# The results' files.
RESULTS = "SELECT recalibration, name, bytes, sha256 FROM result"
FOLDERS = ("models", "recalibrations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One file: its key below the data folder, its size, and its SHA-256 in hexadecimal."""

    key: str
    bytes: int
    sha256: str


def expected(tx: Transaction) -> dict[str, Held]:
    """Return what the ledger says must be there, by key."""
    found = [_held(models.key(str(row["id"])), row["bytes"], row["id"]) for row in tx.rows(MODELS)]
    found += [
        _held(batches.key(str(row["recalibration"]), str(row["blob"])), row["bytes"], row["sha256"])
        for row in tx.rows(BATCHES)
    ]
    found += [
        _held(results.key(str(row["recalibration"]), str(row["name"])), row["bytes"], row["sha256"])
        for row in tx.rows(RESULTS)
    ]
    return {one.key: one for one in found}


def present(folder: Path) -> Iterator[str]:
    """Yield the key of each file that lies among the blobs of a data folder."""
    for name in FOLDERS:
        for path in (folder / name).rglob("*"):
            if not path.is_dir():
                yield path.relative_to(folder).as_posix()


def _held(key: str, size: object, sha256: object) -> Held:
    return Held(key=key, bytes=int(str(size)), sha256=str(sha256))
