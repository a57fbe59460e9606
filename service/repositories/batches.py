"""Batches in the ledger, and where their bytes lie."""

from __future__ import annotations

from dataclasses import dataclass

from service.storage.ledger.protocol import Row, Transaction

# One batch.
ONE = """
SELECT * FROM batch WHERE recalibration = :recalibration AND batch_index = :index
"""
# A new batch.
INSERT = """
INSERT INTO batch (recalibration, batch_index, samples, bytes, sha256, format, blob, start)
VALUES (:recalibration, :index, :samples, :bytes, :sha256, :format, :blob, :start)
"""
# A page of batches in the order of the stream.
PAGE = """
SELECT * FROM batch WHERE recalibration = :recalibration AND batch_index > :after
ORDER BY batch_index LIMIT :limit
"""
# The next free index behind all others.
NEXT = """
SELECT coalesce(max(batch_index), -1) + 1 AS free FROM batch WHERE recalibration = :recalibration
"""
# How many lie at or beyond a count.
SURPLUS = """
SELECT count(*) AS surplus, min(batch_index) AS first FROM batch
WHERE recalibration = :recalibration AND batch_index >= :total
"""
# The first gaps: before the first stored index, and behind each whose successor is missing.
GAPS = """
SELECT 0 AS first, stop FROM (
    SELECT coalesce(min(batch_index), :total) AS stop FROM batch
    WHERE recalibration = :recalibration AND batch_index < :total
)
WHERE stop > 0
UNION ALL
SELECT i + 1 AS first, next AS stop FROM (
    SELECT batch_index AS i, lead(batch_index, 1, :total) OVER (ORDER BY batch_index) AS next
    FROM batch WHERE recalibration = :recalibration AND batch_index < :total
)
WHERE next > i + 1
ORDER BY first LIMIT :limit
"""
# The last ones of a stream, so many at most.
DELETE_LAST = """
DELETE FROM batch WHERE recalibration = :recalibration AND batch_index IN (
    SELECT batch_index FROM batch WHERE recalibration = :recalibration
    ORDER BY batch_index DESC LIMIT :most
)
"""

LARGEST_INDEX = 9_999_999


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A batch that was acknowledged.

    Attributes:
        index: its place in the stream.
        samples: size of the first axis.
        bytes: size of the body.
        sha256: digest of the body, hexadecimal.
        format: name of its format, see `service.formats.registry`.
        blob: its file's name; random, so that the loser of a race overwrites nobody.
        start: where it begins in that file, which is a pack; None where the file is its own.
    """

    index: int
    samples: int
    bytes: int
    sha256: str
    format: str
    blob: str
    start: int | None = None


def folder(recalibration: str) -> str:
    """Return the blob folder of a recalibration's batches."""
    return f"recalibrations/{recalibration}/batches"


def key(recalibration: str, blob: str) -> str:
    """Return the blob key of a batch."""
    return f"{folder(recalibration)}/{blob}"


def find(tx: Transaction, recalibration: str, index: int) -> StoredBatch | None:
    """Return a batch, or None."""
    row = tx.row(ONE, recalibration=recalibration, index=index)
    return None if row is None else _batch(row)


def insert(tx: Transaction, recalibration: str, batch: StoredBatch) -> None:
    """Store a batch under a free index."""
    tx.change(
        INSERT,
        recalibration=recalibration,
        index=batch.index,
        samples=batch.samples,
        bytes=batch.bytes,
        sha256=batch.sha256,
        format=batch.format,
        blob=batch.blob,
        start=batch.start,
    )


def page(tx: Transaction, recalibration: str, *, after: int, limit: int) -> list[StoredBatch]:
    """Return batches in the order of the stream."""
    found = tx.rows(PAGE, recalibration=recalibration, after=after, limit=limit)
    return [_batch(row) for row in found]


def next_index(tx: Transaction, recalibration: str) -> int:
    """Return the index behind all others."""
    row = tx.row(NEXT, recalibration=recalibration)
    assert row is not None
    return int(row["free"] or 0)


def surplus(tx: Transaction, recalibration: str, total: int) -> tuple[int, int]:
    """Return how many batches lie at or beyond `total`, and the first of them."""
    row = tx.row(SURPLUS, recalibration=recalibration, total=total)
    assert row is not None
    return int(row["surplus"] or 0), int(row["first"] or 0)


def missing(tx: Transaction, recalibration: str, total: int, *, limit: int) -> list[int]:
    """Return the first indices below `total` under which nothing is stored."""
    found: list[int] = []
    for row in tx.rows(GAPS, recalibration=recalibration, total=total, limit=limit):
        gap = range(int(row["first"] or 0), int(row["stop"] or 0))
        found += gap[: limit - len(found)]
        if len(found) == limit:
            break
    return found


def _batch(row: Row) -> StoredBatch:
    return StoredBatch(
        index=int(row["batch_index"] or 0),
        samples=int(row["samples"] or 0),
        bytes=int(row["bytes"] or 0),
        sha256=str(row["sha256"]),
        format=str(row["format"]),
        blob=str(row["blob"]),
        start=None if row["start"] is None else int(row["start"]),
    )


def delete_last(tx: Transaction, recalibration: str, most: int) -> int:
    """Delete the rows of the last batches, `most` of them at most; return how many."""
    return tx.change(DELETE_LAST, recalibration=recalibration, most=most)
