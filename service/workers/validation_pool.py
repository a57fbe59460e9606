"""Validation workers: long-lived processes that read batches before these are acknowledged.

Each serves one recalibration, so no uploaded file shares a process with a file of another owner. A
worker receives open files over a socket and cannot open any itself. Starting a worker takes some
tenths of a second and a validation only the time of reading, so a worker is kept until it has been
idle for some time, has read many batches, or must make room for another recalibration.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from time import monotonic
from typing import Any

from service.errors import RefusedError, WorkerDeadlineError, WorkerDiedError
from service.storage.capacity import translated
from service.workers.protocol import BatchToValidate

# Bounds what libraries leak: memory is released when the process ends.
MAX_BATCHES = 1000
IDLE_SECONDS = 30.0


@dataclass(eq=False, slots=True, kw_only=True)
class ValidationWorker:
    """One process.

    Attributes:
        answers: its answers, line by line.
        requests: the server's end of its standard input.
        resources: closed when it ends, the process first.
        recalibration_id: recalibration whose batches it reads.
        batches: number of batches that it was given.
        idle_since: monotonic seconds; None while it works.
    """

    answers: asyncio.StreamReader
    requests: socket.socket
    resources: AsyncExitStack
    recalibration_id: str
    batches: int = 0
    idle_since: float | None = None

    async def validate(self, batch: BatchToValidate) -> int:
        """Let the process read one batch; return its number of samples.

        Raises:
            RefusedError: the batch does not fit the recalibration.
            WorkerDiedError: there was no answer.
            CapacityError: the file cannot be opened now.
        """
        self.batches += 1
        line = json.dumps({"format": batch.format, "batch": batch.batch}).encode()
        with translated():
            handle = os.open(batch.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # A short line into an empty socket never blocks.
            socket.send_fds(self.requests, [line], [handle])
        except OSError as error:
            raise WorkerDiedError("the validation worker has ended") from error
        finally:
            os.close(handle)
        return int((await self.answer())["samples"])

    async def answer(self) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            RefusedError, WorkerDiedError: see `validate`.
        """
        line = await self.answers.readline()
        if not line.endswith(b"\n"):
            raise WorkerDiedError("the worker died while it validated the batch")
        event = json.loads(line)
        if event["event"] == "refused":
            raise RefusedError(event["message"], refusal=event["code"], **event["details"])
        result: dict[str, Any] = event["result"]
        return result


class ValidationPool:
    """A bounded number of validation workers; callers wait until one is free."""

    def __init__(
        self,
        size: int,
        timeout_seconds: float,
        start: Callable[[BatchToValidate], Awaitable[ValidationWorker]],
        *,
        max_batches: int = MAX_BATCHES,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Create an empty pool.

        Args:
            size: maximum number of processes.
            timeout_seconds: maximum time for one batch; then its process is killed.
            start: starts a worker for the recalibration of a batch; returns after its first answer.
            max_batches: number of batches after which a worker is replaced.
            idle_seconds: time after which an idle worker is ended.
        """
        self._size = size
        self._timeout_seconds = timeout_seconds
        self._start = start
        self._max_batches = max_batches
        self._idle_seconds = idle_seconds
        self._used = 0  # alive or starting
        self._idle: list[ValidationWorker] = []
        self._changed = asyncio.Condition()
        self._reaper: asyncio.Task[None] | None = None

    async def validate(self, batch: BatchToValidate) -> int:
        """Let a worker read a batch; return its number of samples.

        A worker that dies may have died of an earlier batch, so a new worker tries once more.
        Cancelling the awaiting task kills the worker.

        Raises:
            RefusedError: the batch does not fit the recalibration.
            WorkerDiedError, WorkerDeadlineError: reading it ends the process or takes too long.
        """
        worker = await self._acquire(batch)
        new = not worker.batches
        try:
            return await self._validate(worker, batch)
        except WorkerDiedError:
            if new:
                raise
        return await self._validate(await self._acquire(batch, new=True), batch)

    async def close(self) -> None:
        """End idle workers; others end with the tasks that await them."""
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.wait([self._reaper])
        while self._idle:
            await self._end(self._idle.pop())

    async def _validate(self, worker: ValidationWorker, batch: BatchToValidate) -> int:
        reusable = False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                samples = await worker.validate(batch)
            reusable = worker.batches < self._max_batches
        except RefusedError:
            reusable = worker.batches < self._max_batches
            raise
        except TimeoutError as error:
            text = f"reading the batch took longer than {self._timeout_seconds:g} seconds"
            raise WorkerDeadlineError(text) from error
        else:
            return samples
        finally:
            await asyncio.shield(self._release(worker) if reusable else self._end(worker))

    async def _acquire(self, batch: BatchToValidate, *, new: bool = False) -> ValidationWorker:
        """Return an idle worker of the batch's recalibration, or start one when there is room."""
        async with self._changed:
            while True:
                own = [one for one in self._idle if one.recalibration_id == batch.recalibration_id]
                if own and not new:
                    self._idle.remove(own[0])
                    own[0].idle_since = None
                    return own[0]
                if self._used < self._size:
                    self._used += 1
                    break
                if self._idle:
                    # The worker that has been idle longest makes room.
                    await self._dispose(self._idle.pop(0))
                    continue
                await self._changed.wait()
        try:
            return await self._start(batch)
        except BaseException:
            await asyncio.shield(self._vacate())
            raise

    async def _release(self, worker: ValidationWorker) -> None:
        async with self._changed:
            worker.idle_since = monotonic()
            self._idle.append(worker)
            self._changed.notify()
        if self._reaper is None or self._reaper.done():
            self._reaper = asyncio.create_task(self._reap(), name="validation reaper")

    async def _end(self, worker: ValidationWorker) -> None:
        async with self._changed:
            await self._dispose(worker)
            self._changed.notify()

    async def _dispose(self, worker: ValidationWorker) -> None:
        self._used -= 1
        await worker.resources.aclose()

    async def _vacate(self) -> None:
        async with self._changed:
            self._used -= 1
            self._changed.notify()

    async def _reap(self) -> None:
        """End workers that have been idle for too long, until none is idle."""
        while self._idle:
            await asyncio.sleep(self._idle_seconds / 2)
            async with self._changed:
                before = monotonic() - self._idle_seconds
                for one in [one for one in self._idle if (one.idle_since or 0.0) < before]:
                    self._idle.remove(one)
                    await self._dispose(one)
                self._changed.notify_all()
