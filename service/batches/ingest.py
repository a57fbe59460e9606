"""A batch on its way from the wire to a durable file: checked, hashed and written in one pass."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from service.blobs.protocol import Blobs, Draft
from service.formats.body import BatchBody
from service.http import digests


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What has come in: number of samples, bytes, and SHA-256 in hexadecimal."""

    samples: int
    bytes: int
    sha256: str


async def receive(
    blobs: Blobs, key: str, body: AsyncIterator[bytearray], parser: BatchBody, digest: str | None
) -> Received:
    """Take a body in and make it durable under `key`; whatever fails leaves no file.

    Raises:
        BatchMalformedError, BatchError: it is no batch for this model.
        DigestMismatchError: it is not what the client announced.
        CapacityError: it could not be stored.
    """
    intake = _Intake(blobs, key, parser, digest)
    try:
        # The last block is taken together with the commit: a small batch costs one hop to a thread.
        last = await anext(body)
        async for block in body:
            await asyncio.to_thread(intake.take, last)
            last = block
        return await asyncio.to_thread(intake.finish, last)
    finally:
        if intake.unfinished:
            await asyncio.shield(asyncio.to_thread(intake.discard))


async def measure(body: AsyncIterator[bytearray]) -> str:
    """Return the SHA-256 of a body that is not kept."""
    digest = hashlib.sha256()
    async for block in body:
        await asyncio.to_thread(digest.update, block)
    return digest.hexdigest()


class _Intake:
    """Everything that blocks; runs in threads, one call at a time."""

    def __init__(self, blobs: Blobs, key: str, parser: BatchBody, digest: str | None) -> None:
        self._blobs = blobs
        self._key = key
        self._parser = parser
        self._announced = digest
        self._digest = hashlib.sha256()
        self._draft: Draft | None = None
        self._size = 0

    def take(self, block: bytearray) -> None:
        self._parser.feed(block)
        if self._draft is None:
            self._draft = self._blobs.draft()
        self._digest.update(block)
        self._draft.write(block)
        self._size += len(block)

    def finish(self, block: bytearray) -> Received:
        self.take(block)
        self._parser.finish()
        digests.verify(self._announced, self._digest.hexdigest())
        assert self._draft is not None  # `take` has made it
        self._draft.commit(self._key)
        self._draft = None
        return Received(
            samples=self._parser.samples, bytes=self._size, sha256=self._digest.hexdigest()
        )

    @property
    def unfinished(self) -> bool:
        return self._draft is not None

    def discard(self) -> None:
        if self._draft is not None:
            self._draft.discard()
