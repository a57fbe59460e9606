"""Writing the body of a batch to the disk, and its interruptions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bn_ops.core.signature import TensorInfo
from service.batches import ingest
from service.errors import BatchMalformedError, BodyIncompleteError
from service.formats.body import BatchBody
from service.storage.blobs.folder import FileDraft, FolderBlobs
from tests.support.service_http import batch, safetensors

INPUTS = (TensorInfo(name="x", dtype="float32", shape=("N", 3)),)
BODY = safetensors(x=batch(0, samples=50))
KEY = "recalibrations/r/batches/b"


def parser() -> BatchBody:
    return BatchBody("safetensors", INPUTS, batch=0, limit_bytes=1 << 20)


async def pieces(data: bytes, size: int) -> AsyncIterator[bytearray]:
    for start in range(0, len(data), size):
        yield bytearray(data[start : start + size])


def left(root: Path) -> list[str]:
    """Return all files but the lock of the scratch folder."""
    files = (path for path in root.rglob("*") if path.is_file())
    return [path.name for path in files if path.suffix != ".lock"]


@pytest.mark.parametrize("size", [7, 64, 1000, 1 << 20])
def test_block_size_is_irrelevant(tmp_path: Path, size: int) -> None:
    blobs = FolderBlobs(tmp_path)
    found = asyncio.run(ingest.receive(blobs, KEY, pieces(BODY, size), parser(), None))
    assert (found.samples, found.bytes) == (50, len(BODY))
    assert blobs.path(KEY).read_bytes() == BODY


def test_incomplete_body_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytearray]:
        async for piece in pieces(BODY[:300], 100):
            yield piece
        raise BodyIncompleteError("gone")

    with pytest.raises(BodyIncompleteError, match="gone"):
        asyncio.run(ingest.receive(FolderBlobs(tmp_path), KEY, broken(), parser(), None))
    assert left(tmp_path) == []


def test_first_error_is_reported(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytearray]:
        yield bytearray(b"not safetensors")
        yield bytearray(b"more")
        raise BodyIncompleteError("gone")

    with pytest.raises(BatchMalformedError):
        asyncio.run(ingest.receive(FolderBlobs(tmp_path), KEY, broken(), parser(), None))
    assert left(tmp_path) == []


def test_reading_overlaps_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for_more = threading.Event()
    write = FileDraft.write

    def slow_write(self: FileDraft, data: bytes | bytearray | memoryview) -> None:
        assert asked_for_more.wait(60)
        write(self, data)

    async def body() -> AsyncIterator[bytearray]:
        yield bytearray(BODY[:200])
        yield bytearray(BODY[200:400])
        asked_for_more.set()
        yield bytearray(BODY[400:])

    monkeypatch.setattr(FileDraft, "write", slow_write)
    blobs = FolderBlobs(tmp_path)
    asyncio.run(ingest.receive(blobs, KEY, body(), parser(), None))
    assert blobs.path(KEY).read_bytes() == BODY


def test_cancellation_waits_for_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the thread could write to a file descriptor that was reused for another file."""
    writing, go_on = threading.Event(), threading.Event()
    happened: list[str] = []
    write, discard = FileDraft.write, FileDraft.discard

    def slow_write(self: FileDraft, data: bytes | bytearray | memoryview) -> None:
        writing.set()
        assert go_on.wait(60)
        write(self, data)
        happened.append("written")

    def watched_discard(self: FileDraft) -> None:
        happened.append("discarded")
        discard(self)

    monkeypatch.setattr(FileDraft, "write", slow_write)
    monkeypatch.setattr(FileDraft, "discard", watched_discard)

    async def cancel_midway() -> None:
        body = pieces(BODY, 100)
        work = ingest.receive(FolderBlobs(tmp_path), KEY, body, parser(), None)
        task = asyncio.create_task(work)
        await asyncio.to_thread(writing.wait, 60)
        task.cancel()
        await asyncio.sleep(0.05)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel_midway())
    assert happened == ["written", "discarded"]
    assert left(tmp_path) == []
