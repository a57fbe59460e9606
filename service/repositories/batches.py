"""Batches in the ledger, and the keys of their blobs.

A batch is identified by its recalibration, its stream and its index. The files of both streams are
in one folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bn_ops.core.signature import TensorInfo
from service.repositories import recalibrations
from service.repositories.records import StoredBatch, Stream
from service.storage.blobs.protocol import BlobContent
from service.storage.ledger.protocol import Ledger, Parameters, Row, Transaction

# One batch.
ONE = """
SELECT * FROM batch
WHERE recalibration = :recalibration_id AND stream = :stream AND batch_index = :index
"""
# Insert a batch.
INSERT = """
INSERT INTO batch (recalibration, stream, batch_index, samples, bytes, sha256, format, blob, start)
VALUES (:recalibration_id, :stream, :index, :samples, :bytes, :sha256, :format, :blob, :start)
"""
# A page of batches in stream order.
PAGE = """
SELECT * FROM batch
WHERE recalibration = :recalibration_id AND stream = :stream AND batch_index > :after
ORDER BY batch_index LIMIT :limit
"""
# The index after the last batch.
NEXT = """
SELECT coalesce(max(batch_index), -1) + 1 AS free FROM batch
WHERE recalibration = :recalibration_id AND stream = :stream
"""
# Number of batches at or beyond a count, and the first of them.
UNEXPECTED = """
SELECT count(*) AS found, min(batch_index) AS first FROM batch
WHERE recalibration = :recalibration_id AND stream = :stream AND batch_index >= :total
"""
# The first gaps: before the first stored index, and after each index whose successor is missing.
GAPS = """
SELECT 0 AS first, stop FROM (
    SELECT coalesce(min(batch_index), :total) AS stop FROM batch
    WHERE recalibration = :recalibration_id AND stream = :stream AND batch_index < :total
) AS before
WHERE stop > 0
UNION ALL
SELECT i + 1 AS first, next AS stop FROM (
    SELECT batch_index AS i, lead(batch_index, 1, :total) OVER (ORDER BY batch_index) AS next
    FROM batch
    WHERE recalibration = :recalibration_id AND stream = :stream AND batch_index < :total
) AS pairs
WHERE next > i + 1
ORDER BY first LIMIT :limit
"""
# Names of the blobs of all batches.
BLOBS = "SELECT DISTINCT blob FROM batch WHERE recalibration = :recalibration_id"
# Delete the last batches of both streams, up to a limit.
DELETE_LAST = """
DELETE FROM batch WHERE recalibration = :recalibration_id AND (stream, batch_index) IN (
    SELECT stream, batch_index FROM batch WHERE recalibration = :recalibration_id
    ORDER BY stream DESC, batch_index DESC LIMIT :limit
)
"""


BatchPlace = tuple[str, Stream, int]
"""What identifies a batch: recalibration, stream and index."""

MAX_INDEX = 9_999_999
# Number of streams whose inputs are cached.
MAX_CACHED_STREAMS = 1024


def folder(recalibration_id: str) -> str:
    """Return the blob folder of a recalibration's batches."""
    return f"{recalibrations.folder(recalibration_id)}/batches"


def key(recalibration_id: str, blob: str) -> str:
    """Return the blob key of a batch."""
    return f"{folder(recalibration_id)}/{blob}"


def content(recalibration_id: str, batch: StoredBatch) -> BlobContent:
    """Return what the blob of a batch must contain."""
    return BlobContent(
        key=key(recalibration_id, batch.blob),
        bytes=batch.bytes,
        sha256=batch.sha256,
        start=batch.start,
    )


def find(tx: Transaction, recalibration_id: str, stream: Stream, index: int) -> StoredBatch | None:
    """Return a batch, or None."""
    row = tx.row(ONE, recalibration_id=recalibration_id, stream=stream, index=index)
    return None if row is None else _batch(row)


def fetch(
    tx: Transaction, places: Sequence[BatchPlace]
) -> Callable[[], dict[BatchPlace, StoredBatch]]:
    """Send the query of many places; the result waits for the batches that are there."""
    sets: list[Parameters] = [
        {"recalibration_id": name, "stream": stream, "index": index}
        for name, stream, index in places
    ]
    found = tx.fetch(ONE, sets)
    return lambda: {
        place: _batch(rows[0]) for place, rows in zip(places, found(), strict=True) if rows
    }


def fetch_next_indices(
    tx: Transaction, streams: Sequence[tuple[str, Stream]]
) -> Callable[[], dict[tuple[str, Stream], int]]:
    """Send the query of many streams; the result waits for the index after the last batch."""
    found = tx.fetch(
        NEXT, [{"recalibration_id": name, "stream": stream} for name, stream in streams]
    )
    return lambda: {
        stream: int(rows[0]["free"] or 0) for stream, rows in zip(streams, found(), strict=True)
    }


def insert_all(tx: Transaction, batches: Sequence[tuple[str, Stream, StoredBatch]]) -> None:
    """Insert batches of recalibrations and streams under free indices."""
    tx.insert_all(
        INSERT,
        [
            {
                "recalibration_id": recalibration_id,
                "stream": stream,
                "index": batch.index,
                "samples": batch.samples,
                "bytes": batch.bytes,
                "sha256": batch.sha256,
                "format": batch.format,
                "blob": batch.blob,
                "start": batch.start,
            }
            for recalibration_id, stream, batch in batches
        ],
    )


def page(
    tx: Transaction, recalibration_id: str, stream: Stream, *, after: int, limit: int
) -> list[StoredBatch]:
    """Return the batches after an index in stream order, up to a limit."""
    found = tx.rows(
        PAGE, recalibration_id=recalibration_id, stream=stream, after=after, limit=limit
    )
    return [_batch(row) for row in found]


def next_index(tx: Transaction, recalibration_id: str, stream: Stream) -> int:
    """Return the index after the last batch."""
    row = tx.row(NEXT, recalibration_id=recalibration_id, stream=stream)
    assert row is not None
    return int(row["free"] or 0)


def unexpected(
    tx: Transaction, recalibration_id: str, stream: Stream, total: int
) -> tuple[int, int]:
    """Return the number of batches at or beyond index `total`, and the first index of them."""
    row = tx.row(UNEXPECTED, recalibration_id=recalibration_id, stream=stream, total=total)
    assert row is not None
    return int(row["found"] or 0), int(row["first"] or 0)


def missing(
    tx: Transaction, recalibration_id: str, stream: Stream, total: int, *, limit: int
) -> list[int]:
    """Return the indices below `total` without a batch, up to a limit."""
    found: list[int] = []
    gaps = tx.rows(GAPS, recalibration_id=recalibration_id, stream=stream, total=total, limit=limit)
    for row in gaps:
        gap = range(int(row["first"] or 0), int(row["stop"] or 0))
        found += gap[: limit - len(found)]
        if len(found) == limit:
            break
    return found


def blobs(tx: Transaction, recalibration_id: str) -> set[str]:
    """Return the names of the blobs of all batches, of both streams."""
    return {str(row["blob"]) for row in tx.rows(BLOBS, recalibration_id=recalibration_id)}


def delete_last(tx: Transaction, recalibration_id: str, limit: int) -> int:
    """Delete the rows of the last batches, up to a limit; return their number."""
    return tx.change(DELETE_LAST, recalibration_id=recalibration_id, limit=limit)


class InputsCache:
    """The inputs of recalibrations that receive batches.

    A recalibration's inputs never change and no id is used twice, so cached values stay valid.
    Whether the recalibration still exists and is open is checked in the transaction that stores the
    batch.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[TensorInfo, ...]] = {}

    async def get(self, ledger: Ledger, recalibration_id: str) -> tuple[TensorInfo, ...]:
        """Return the inputs that a batch must hold.

        Raises:
            NotFoundError: there is no such recalibration.
        """
        known = self._known.get(recalibration_id)
        if known is None:
            found = await ledger.read(lambda tx: recalibrations.get(tx, recalibration_id))
            known = found.tensors()
            self._known[recalibration_id] = known
            if len(self._known) > MAX_CACHED_STREAMS:
                del self._known[next(iter(self._known))]
        return known


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
