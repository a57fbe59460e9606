"""Checkers: workers that live for a while and read batches before these are acknowledged.

Each serves one recalibration, so that no uploaded file shares a process with another owner's. A
checker is handed open files over a socket and can open none itself. Starting one takes some tenths
of a second and a check only the time of reading, so a checker waits for more work until it has been
idle, has checked many batches, or makes room for another recalibration's.
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
from service.storage.os_errors import translated
from service.workers.protocol import Check

# Whatever a library leaks ends with its process.
MOST_BATCHES = 1000
IDLE_SECONDS = 30.0


@dataclass(eq=False, slots=True, kw_only=True)
class Checker:
    """One process.

    Attributes:
        answers: its answers, line by line.
        requests: the server's end of its standard input.
        resources: what ends with it, the process first.
        serves: the recalibration whose batches it reads.
        batches: how many it was given.
        idle_since: monotonic seconds; None while it works.
    """

    answers: asyncio.StreamReader
    requests: socket.socket
    resources: AsyncExitStack
    serves: str
    batches: int = 0
    idle_since: float | None = None

    async def ask(self, batch: Check) -> int:
        """Have one batch read; return its number of samples.

        Raises:
            RefusedError: it is no batch for this recalibration.
            WorkerDiedError: there was no answer.
            CapacityError: the file cannot be opened now.
        """
        self.batches += 1
        line = json.dumps({"format": batch.format, "batch": batch.batch}).encode()
        with translated():
            handle = os.open(batch.file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # A short line into an empty socket: never blocks.
            socket.send_fds(self.requests, [line], [handle])
        except OSError as error:
            raise WorkerDiedError("the worker that checks batches has gone") from error
        finally:
            os.close(handle)
        return int((await self.answer())["samples"])

    async def answer(self) -> dict[str, Any]:
        """Read the next answer.

        Raises:
            RefusedError, WorkerDiedError: as `ask`.
        """
        line = await self.answers.readline()
        if not line.endswith(b"\n"):
            raise WorkerDiedError("the worker died while it checked the batch")
        event = json.loads(line)
        if event["event"] == "refused":
            raise RefusedError(event["message"], refusal=event["code"], **event["details"])
        result: dict[str, Any] = event["result"]
        return result


class Checkers:
    """At most so many of them; whoever finds none free waits."""

    def __init__(
        self, most: int, deadline_seconds: float, start: Callable[[Check], Awaitable[Checker]]
    ) -> None:
        """Begin with none.

        Args:
            most: processes at one time.
            deadline_seconds: longest time for one batch; then its process is killed.
            start: starts one that serves a batch's recalibration and has given its first answer.
        """
        self._most = most
        self._deadline_seconds = deadline_seconds
        self._start = start
        self._used = 0  # alive, or about to be
        self._idle: list[Checker] = []
        self._changed = asyncio.Condition()
        self._reaper: asyncio.Task[None] | None = None

    async def check(self, batch: Check) -> int:
        """Have a batch read; return its number of samples.

        A checker that dies of a batch may have died of what it did before: a fresh one tries once
        more. Whoever cancels the waiting task kills the checker.

        Raises:
            RefusedError: it is no batch for this recalibration.
            WorkerDiedError, WorkerDeadlineError: reading it ends the process, or takes for ever.
        """
        checker = await self._take(batch)
        fresh = not checker.batches
        try:
            return await self._ask(checker, batch)
        except WorkerDiedError:
            if fresh:
                raise
        return await self._ask(await self._take(batch, fresh=True), batch)

    async def close(self) -> None:
        """End those that are idle; the others end with whoever waits for them."""
        if self._reaper is not None:
            self._reaper.cancel()
            await asyncio.wait([self._reaper])
        while self._idle:
            await self._end(self._idle.pop())

    async def _ask(self, checker: Checker, batch: Check) -> int:
        kept = False
        try:
            async with asyncio.timeout(self._deadline_seconds):
                samples = await checker.ask(batch)
            kept = checker.batches < MOST_BATCHES
        except RefusedError:
            kept = checker.batches < MOST_BATCHES
            raise
        except TimeoutError as error:
            text = f"reading the batch took longer than {self._deadline_seconds:g} seconds"
            raise WorkerDeadlineError(text) from error
        else:
            return samples
        finally:
            await asyncio.shield(self._release(checker) if kept else self._end(checker))

    async def _take(self, batch: Check, *, fresh: bool = False) -> Checker:
        """Return a free checker of the batch's recalibration, or start one when there is room."""
        async with self._changed:
            while True:
                own = [one for one in self._idle if one.serves == batch.recalibration]
                if own and not fresh:
                    self._idle.remove(own[0])
                    own[0].idle_since = None
                    return own[0]
                if self._used < self._most:
                    self._used += 1
                    break
                if self._idle:
                    # The one that has been idle longest makes room.
                    await self._dispose(self._idle.pop(0))
                    continue
                await self._changed.wait()
        try:
            return await self._start(batch)
        except BaseException:
            await asyncio.shield(self._vacate())
            raise

    async def _release(self, checker: Checker) -> None:
        async with self._changed:
            checker.idle_since = monotonic()
            self._idle.append(checker)
            self._changed.notify()
        if self._reaper is None or self._reaper.done():
            self._reaper = asyncio.create_task(self._reap(), name="reaper of checkers")

    async def _end(self, checker: Checker) -> None:
        async with self._changed:
            await self._dispose(checker)
            self._changed.notify()

    async def _dispose(self, checker: Checker) -> None:
        self._used -= 1
        await checker.resources.aclose()

    async def _vacate(self) -> None:
        async with self._changed:
            self._used -= 1
            self._changed.notify()

    async def _reap(self) -> None:
        """End what has been idle for long, until none is left."""
        while self._idle:
            await asyncio.sleep(IDLE_SECONDS / 2)
            async with self._changed:
                before = monotonic() - IDLE_SECONDS
                for one in [one for one in self._idle if (one.idle_since or 0.0) < before]:
                    self._idle.remove(one)
                    await self._dispose(one)
                self._changed.notify_all()
