"""Wire schemas of batches."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from service.repositories.records import StoredBatch


class BatchOut(BaseModel):
    """A stored batch."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "index": 0,
                    "samples": 32,
                    "bytes": 100480,
                    "sha256": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
                }
            ]
        }
    )

    index: int
    samples: int
    bytes: int
    sha256: str

    @staticmethod
    def of(batch: StoredBatch) -> BatchOut:
        """Return the wire form of a stored batch."""
        return BatchOut(
            index=batch.index, samples=batch.samples, bytes=batch.bytes, sha256=batch.sha256
        )


class BatchPage(BaseModel):
    """A page of batches in stream order."""

    items: list[BatchOut]
    next: str | None
