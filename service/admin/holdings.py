"""Every file that the ledger says must be there, and every file that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service.recalibrations import results
from service.repositories import batches, models
from service.storage.ledger.protocol import Row, Transaction

# The models' files.
MODELS = "SELECT id, bytes FROM model"
# The batches' files.
BATCHES = """
SELECT recalibration, blob, start, batch.bytes, sha256
FROM batch JOIN recalibration ON id = recalibration
WHERE data_removed = 0
"""
# The results' files.
RESULTS = "SELECT recalibration, name, bytes, sha256 FROM result"
FOLDERS = ("models", "recalibrations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What must lie in a file.

    Attributes:
        key: the file's, below the data folder.
        bytes: size.
        sha256: in hexadecimal.
        start: where it begins in the file, which is a pack; None where it is all of the file.
    """

    key: str
    bytes: int
    sha256: str
    start: int | None = None


def expected(tx: Transaction) -> dict[str, list[Held]]:
    """Return what the ledger says must be there, by key; only a pack holds more than one thing."""
    found = [_held(models.key(str(row["id"])), row, row["id"]) for row in tx.rows(MODELS)]
    found += [
        _held(batches.key(str(row["recalibration"]), str(row["blob"])), row, row["sha256"])
        for row in tx.rows(BATCHES)
    ]
    found += [
        _held(results.key(str(row["recalibration"]), str(row["name"])), row, row["sha256"])
        for row in tx.rows(RESULTS)
    ]
    files: dict[str, list[Held]] = {}
    for one in found:
        files.setdefault(one.key, []).append(one)
    return files


def present(folder: Path) -> Iterator[str]:
    """Yield the key of each file that lies among the blobs of a data folder."""
    for name in FOLDERS:
        for path in (folder / name).rglob("*"):
            if not path.is_dir():
                yield path.relative_to(folder).as_posix()


def _held(key: str, row: Row, sha256: object) -> Held:
    start = row.get("start")
    return Held(
        key=key,
        bytes=int(str(row["bytes"])),
        sha256=str(sha256),
        start=None if start is None else int(str(start)),
    )
