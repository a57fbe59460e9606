"""How much is stored: totals for limits and metrics, and the inventory for administrators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from service.repositories import batches, models, recalibrations, results
from service.settings import Settings
from service.storage import capacity
from service.storage.blobs.protocol import BlobContent
from service.storage.ledger.protocol import Row, Transaction

# All recalibrations with their sizes.
RECALIBRATIONS = """
SELECT id, nullif(owner, '') AS owner, state, received AS batches,
       CASE WHEN data_removed = 0 THEN bytes ELSE 0 END AS batch_bytes,
       (SELECT coalesce(sum(result.bytes), 0) FROM result
        WHERE result.recalibration = recalibration.id) AS result_bytes,
       model, created, ended
FROM recalibration ORDER BY seq
"""
# All models with the number of their recalibrations.
MODELS = """
SELECT id, bytes, created,
       (SELECT count(*) FROM recalibration WHERE recalibration.model = model.id) AS recalibrations
FROM model ORDER BY seq
"""
# Owners of models.
OWNERS = "SELECT model, owner FROM model_owner WHERE owner <> '' ORDER BY seq"
# Files of models.
MODEL_FILES = "SELECT folder, bytes FROM model"
# Files of batches.
BATCH_FILES = """
SELECT recalibration, blob, start, batch.bytes, sha256
FROM batch JOIN recalibration ON id = recalibration
WHERE data_removed = 0 AND (ended IS NULL OR keep_data = 1)
"""
# Files of results.
RESULT_FILES = "SELECT recalibration, name, bytes, sha256, claim FROM result"


def stored_bytes(tx: Transaction) -> int:
    """Return the bytes of all models and batches, as the total limit counts them."""
    return recalibrations.total_bytes(tx) + models.total_bytes(tx)


def fetch_total(tx: Transaction) -> Callable[[], int]:
    """Send the queries of `stored_bytes`; the result waits for their sum."""
    found = [tx.fetch(query, [{}]) for query in (recalibrations.TOTAL, models.TOTAL)]
    return lambda: sum(int(rows()[0][0]["bytes"] or 0) for rows in found)


def check_total(tx: Transaction, settings: Settings, more_bytes: int) -> None:
    """Check that an upload stays within the server's total limit.

    Raises:
        StorageFullError: the limit would be exceeded.
    """
    check_total_bytes(stored_bytes(tx), settings, more_bytes)


def check_total_bytes(stored: int, settings: Settings, more_bytes: int) -> None:
    """As `check_total`, with the stored bytes.

    Raises:
        StorageFullError: the upload exceeds the limit.
    """
    capacity.check_total_limit(stored, more_bytes, settings.total_limit_bytes)


def inventory(tx: Transaction) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return all recalibrations and all models with their sizes, oldest first."""
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for row in tx.rows(OWNERS):
        owners[str(row["model"])].append(str(row["owner"]))
    found = [
        {
            "id": row["id"],
            "bytes": row["bytes"],
            "created": row["created"],
            "owners": " ".join(owners[str(row["id"])]) or None,
            "recalibrations": row["recalibrations"],
        }
        for row in tx.rows(MODELS)
    ]
    return [dict(row) for row in tx.rows(RECALIBRATIONS)], found


def expected_files(tx: Transaction) -> dict[str, list[BlobContent]]:
    """Return the content of all blobs that the ledger refers to, by key.

    Only a pack has more than one entry. Batches of ended recalibrations that do not keep their data
    are left out: they are removed, or will be.
    """
    found = [
        models.content(str(row["folder"]), int(row["bytes"] or 0)) for row in tx.rows(MODEL_FILES)
    ]
    found += [
        _content(batches.key(str(row["recalibration"]), str(row["blob"])), row, row["sha256"])
        for row in tx.rows(BATCH_FILES)
    ]
    found += [_content(_result_key(row), row, row["sha256"]) for row in tx.rows(RESULT_FILES)]
    files: dict[str, list[BlobContent]] = {}
    for one in found:
        files.setdefault(one.key, []).append(one)
    return files


def _result_key(row: Row) -> str:
    claim = None if row["claim"] is None else int(row["claim"])
    return results.key(str(row["recalibration"]), str(row["name"]), claim)


def _content(key: str, row: Row, sha256: object) -> BlobContent:
    start = row.get("start")
    return BlobContent(
        key=key,
        bytes=int(str(row["bytes"])),
        sha256=str(sha256),
        start=None if start is None else int(str(start)),
    )
