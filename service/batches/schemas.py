"""Batches on the wire."""

from __future__ import annotations

from pydantic import BaseModel

from service.batches.store import StoredBatch


class BatchOut(BaseModel):
    """One stored batch."""

    index: int
    samples: int
    bytes: int
    sha256: str

    @staticmethod
    def of(batch: StoredBatch) -> BatchOut:
        """Write a stored batch."""
        return BatchOut(
            index=batch.index, samples=batch.samples, bytes=batch.bytes, sha256=batch.sha256
        )


class BatchPage(BaseModel):
    """A page of batches in the order of the stream."""

    items: list[BatchOut]
    next: str | None
