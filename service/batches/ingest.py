"""A batch on its way from the wire to a durable file.

Plain arrays are checked, hashed and written in one pass. An archive or an image is opaque to this
process: it is written as it comes and read by a worker before it becomes durable. Either way a bad
batch is refused before it is acknowledged, and leaves nothing.
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
"""Has a worker read a file; returns its number of samples."""


_ENDED = "the request ended before its body did"


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What has come in: number of samples, bytes, and SHA-256 in hexadecimal."""

    samples: int
    bytes: int
    sha256: str


async def receive(
    blobs: Blobs, key: str, body: AsyncIterator[bytearray], parser: BatchBody, digest: str | None
) -> Received:
    """Take plain arrays in and make them durable under `key`; whatever fails leaves no file.

    Raises:
        BatchMalformedError, BatchError: it is no batch for this model.
        DigestMismatchError: it is not what the client announced.
        CapacityError: it could not be stored.
    """
    intake = _Intake(blobs, key, parser, digest)
    try:
        # The last block is taken together with the commit: one of a single block costs one hop.
        last = await _all_but_last(intake, body)
        return await asyncio.to_thread(intake.finish, last)
    except BaseException:
        await _leave_nothing(intake)
        raise


async def receive_whole(content: bytearray, parser: BatchBody, digest: str | None) -> Received:
    """Check and hash small arrays that have come whole; they are kept elsewhere.

    Raises:
        BatchMalformedError, BatchError: they are no batch for this model.
        DigestMismatchError: they are not what the client announced.
    """
    # A hop to a thread would cost more than the honest ones: half a millisecond at most.
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
    blobs: Blobs, key: str, body: AsyncIterator[bytearray], check: Check, digest: str | None
) -> Received:
    """Take in what only a worker may read, have it read, and make it durable under `key`.

    Raises:
        RefusedError: the worker found it to be no batch for this recalibration.
        WorkerDiedError, WorkerDeadlineError: the worker gave no answer.
        DigestMismatchError: it is not what the client announced.
        CapacityError: it could not be stored.
    """
    intake = _Intake(blobs, key, None, digest)
    try:
        last = await _all_but_last(intake, body)
        samples = await check(await asyncio.to_thread(intake.complete, last))
        return await asyncio.to_thread(intake.commit, samples)
    except BaseException:
        await _leave_nothing(intake)
        raise


async def _all_but_last(intake: _Intake, body: AsyncIterator[bytearray]) -> bytearray:
    """Take each block while the next one comes in; return the last."""
    last = await anext(body)
    taking: asyncio.Task[None] | None = None
    try:
        async for block in body:
            if taking is not None:
                await taking
            taking = asyncio.create_task(asyncio.to_thread(intake.take, last))
            last = block
    except Exception:
        if taking is not None:
            await taking  # what was wrong first is told
        raise
    except asyncio.CancelledError:
        if taking is not None:
            await asyncio.gather(taking, return_exceptions=True)
        raise
    if taking is not None:
        await taking
    return last


async def _leave_nothing(intake: _Intake) -> None:
    await asyncio.shield(asyncio.to_thread(intake.discard))


async def measure(body: AsyncIterator[bytearray]) -> str:
    """Return the SHA-256 of a body that is not kept."""
    digest = hashlib.sha256()
    async for block in body:
        await asyncio.to_thread(digest.update, block)
    return digest.hexdigest()


class _Intake:
    """Everything that blocks; runs in threads, one call at a time.

    A request that is cancelled does not stop the thread that works for it. So `discard` waits for
    that, and what comes after it is refused: nothing is written to a handle that may be another
    file's by then.
    """

    def __init__(
        self, blobs: Blobs, key: str, parser: BatchBody | None, digest: str | None
    ) -> None:
        self._blobs = blobs
        self._key = key
        self._parser = parser
        self._announced = digest
        self._digest = hashlib.sha256()
        self._draft: Draft | None = None
        self._size = 0
        self._lock = threading.RLock()
        self._discarded = False

    def take(self, block: bytearray) -> None:
        with self._lock:
            self._take(block)

    def _take(self, block: bytearray) -> None:
        if self._discarded:
            raise BodyIncompleteError(_ENDED)
        if self._parser is not None:
            self._parser.feed(block)
        if self._draft is None:
            self._draft = self._blobs.draft()
        self._digest.update(block)
        self._draft.write(block)
        self._size += len(block)

    def finish(self, block: bytearray) -> Received:
        assert self._parser is not None
        with self._lock:
            self._take(block)
            self._parser.finish()
            digests.verify(self._announced, self._digest.hexdigest())
            return self.commit(self._parser.samples)

    def complete(self, block: bytearray) -> Path:
        """Take the last block and return where all of it lies."""
        self.take(block)
        digests.verify(self._announced, self._digest.hexdigest())
        assert self._draft is not None  # `take` has made it
        return self._draft.path

    def commit(self, samples: int) -> Received:
        with self._lock:
            if self._discarded:
                raise BodyIncompleteError(_ENDED)
            assert self._draft is not None  # `take` has made it
            self._draft.commit(self._key)
            self._draft = None
        return Received(samples=samples, bytes=self._size, sha256=self._digest.hexdigest())

    def discard(self) -> None:
        with self._lock:
            self._discarded = True
            if self._draft is not None:
                self._draft.discard()
