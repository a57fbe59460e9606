"""Receiving the body of a batch into a durable file.

Plain arrays are checked, hashed and written in one pass. An archive or an image is opaque to this
process: it is written unchanged and read by a worker before it becomes durable. In both cases an
invalid batch is rejected before it is acknowledged, and nothing of it remains.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from service.errors import BodyIncompleteError
from service.formats.body import BatchBody
from service.storage.blobs.protocol import Blobs, Draft
from service.web import content_digest as digests

Check = Callable[[Path], Awaitable[int]]
"""Lets a worker read a file and returns its number of samples."""

_ENDED = "the request was cancelled before its body was complete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A received body: number of samples, size in bytes, and SHA-256 in hexadecimal."""

    samples: int
    bytes: int
    sha256: str


async def receive(
    blobs: Blobs,
    key: str,
    body: AsyncIterator[bytearray],
    parser: BatchBody,
    digest: str | None,
    *,
    draft: Draft | None = None,
) -> Received:
    """Receive plain arrays and make them durable under `key`; no file remains after an error.

    A `draft` that already holds the body is checked and kept instead of written again.

    Raises:
        BatchMalformedError, BatchError: the batch is malformed or does not fit the model.
        DigestMismatchError: the digest differs from the announced one.
        CapacityError: the batch could not be stored.
    """
    receiver = _Receiver(blobs, key, parser, digest, draft)
    try:
        # The last block is written in the step that commits, to save a switch to a thread.
        last = await _all_but_last(receiver, body)
        return await asyncio.to_thread(receiver.finish, last)
    except BaseException:
        await _discard(receiver)
        raise


async def receive_whole(content: bytearray, parser: BatchBody, digest: str | None) -> Received:
    """Check and hash small arrays that are complete; the caller stores them.

    Raises:
        BatchMalformedError, BatchError: the batch is malformed or does not fit the model.
        DigestMismatchError: the digest differs from the announced one.
    """
    # At most half a millisecond for a usual header: switching to a thread would cost more.
    if parser.is_quick(content):
        return _receive_whole(content, parser, digest)
    return await asyncio.to_thread(_receive_whole, content, parser, digest)


def _receive_whole(content: bytearray, parser: BatchBody, digest: str | None) -> Received:
    parser.feed(content)
    parser.finish()
    sha256 = hashlib.sha256(content).hexdigest()
    digests.verify(digest, sha256)
    return Received(samples=parser.samples, bytes=len(content), sha256=sha256)


async def receive_opaque(
    blobs: Blobs,
    key: str,
    body: AsyncIterator[bytearray],
    check: Check,
    digest: str | None,
    *,
    draft: Draft | None = None,
) -> Received:
    """Receive a body that only a worker may read, have it checked, and make it durable.

    A `draft` that already holds the body is checked and kept instead of written again.

    Raises:
        RefusedError: the worker rejected the batch.
        WorkerDiedError, WorkerDeadlineError: the worker crashed or timed out.
        DigestMismatchError: the digest differs from the announced one.
        CapacityError: the batch could not be stored.
    """
    receiver = _Receiver(blobs, key, None, digest, draft)
    try:
        last = await _all_but_last(receiver, body)
        samples = await check(await asyncio.to_thread(receiver.complete, last))
        return await asyncio.to_thread(receiver.commit, samples)
    except BaseException:
        await _discard(receiver)
        raise


async def _all_but_last(receiver: _Receiver, body: AsyncIterator[bytearray]) -> bytearray:
    """Write each block while the next one arrives; return the last block."""
    last = await anext(body)
    writing: asyncio.Task[None] | None = None
    try:
        async for block in body:
            if writing is not None:
                await writing
            writing = asyncio.create_task(asyncio.to_thread(receiver.write, last))
            last = block
    except Exception:
        if writing is not None:
            await writing  # the earlier error is reported
        raise
    except asyncio.CancelledError:
        if writing is not None:
            await asyncio.gather(writing, return_exceptions=True)
        raise
    if writing is not None:
        await writing
    return last


async def _discard(receiver: _Receiver) -> None:
    await asyncio.shield(asyncio.to_thread(receiver.discard))


async def measure(body: AsyncIterator[bytearray]) -> str:
    """Return the SHA-256 of a body that is not stored."""
    digest = hashlib.sha256()
    async for block in body:
        await asyncio.to_thread(digest.update, block)
    return digest.hexdigest()


class _Receiver:
    """The blocking part; runs in threads, one call at a time.

    Cancelling a request does not stop the thread that works for it. So `discard` waits for the
    thread and rejects later calls: nothing is written to a file descriptor that may have been
    reused.
    """

    def __init__(
        self,
        blobs: Blobs,
        key: str,
        parser: BatchBody | None,
        digest: str | None,
        draft: Draft | None,
    ) -> None:
        self._blobs = blobs
        self._key = key
        self._parser = parser
        self._announced = digest
        self._digest = hashlib.sha256()
        self._draft = draft
        self._is_written = draft is not None
        self._size = 0
        self._lock = threading.RLock()
        self._discarded = False

    def write(self, block: bytearray) -> None:
        with self._lock:
            self._write(block)

    def _write(self, block: bytearray) -> None:
        if self._discarded:
            raise BodyIncompleteError(_ENDED)
        if self._parser is not None:
            self._parser.feed(block)
        if self._draft is None:
            self._draft = self._blobs.draft()
        self._digest.update(block)
        if not self._is_written:
            self._draft.write(block)
        self._size += len(block)

    def finish(self, block: bytearray) -> Received:
        assert self._parser is not None
        with self._lock:
            self._write(block)
            self._parser.finish()
            digests.verify(self._announced, self._digest.hexdigest())
            return self.commit(self._parser.samples)

    def complete(self, block: bytearray) -> Path:
        """Write the last block and return the path of the draft."""
        self.write(block)
        digests.verify(self._announced, self._digest.hexdigest())
        assert self._draft is not None  # created by `write`
        return self._draft.path

    def commit(self, samples: int) -> Received:
        with self._lock:
            if self._discarded:
                raise BodyIncompleteError(_ENDED)
            assert self._draft is not None  # created by `write`
            self._draft.commit(self._key)
            self._draft = None
        return Received(samples=samples, bytes=self._size, sha256=self._digest.hexdigest())

    def discard(self) -> None:
        with self._lock:
            self._discarded = True
            if self._draft is not None:
                self._draft.discard()
