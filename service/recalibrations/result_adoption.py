"""Adopt the files of a finished run: they are durable before the ledger records its success."""

from __future__ import annotations

from pathlib import Path

from service.repositories import results
from service.repositories.records import StoredResult
from service.storage.blobs.protocol import Blobs
from service.storage.capacity import translated
from service.storage.checksums import sha256_of
from service.workers.messages import RESULTS


def adopt(blobs: Blobs, recalibration_id: str, output: Path) -> list[StoredResult]:
    """Store a worker's files durably and return their records; blocks.

    Raises:
        StorageFullError, StorageFailedError: a file could not be stored.
    """
    adopted = []
    for name in RESULTS:
        file = output / name
        with translated():
            digest = sha256_of(file)
            size = file.stat().st_size
        adopted.append(StoredResult(name=name, bytes=size, sha256=digest))
        blobs.adopt(file, results.key(recalibration_id, name))
    return adopted
