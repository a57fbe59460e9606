"""The conductor: asks every shard on behalf of the assembling worker, and replaces lost shards."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from service.errors import RefusedError, WorkerDiedError, WorkerError
from service.telemetry.tracing import RunTrace
from service.workers.messages import frame
from service.workers.process import WorkerProcess, progress_of
from service.workers.protocol import MeasuredLayer, OnProgress, Progress
from service.workers.sharding.protocol import Shard, ShardJob, Shards

__all__ = ["Conductor", "conduct"]

_log = logging.getLogger(__name__)
# Phases that shards report; the others are those of the assembling worker.
_MEASURING = "measuring"
_READING = "reading"
# The last request of the assembling worker.
_LAST = "samples"


@dataclass(slots=True, kw_only=True)
class _Slot:
    """One shard and what it has measured.

    Attributes:
        job: what it measures.
        shard: the worker that measures it now; None before it is opened.
        first: the step that reads its samples, which begins before it is requested.
        steps: the statistics of each step, and the sha256 of its moments.
    """

    job: ShardJob
    shard: Shard | None = None
    first: asyncio.Task[bytes] | None = None
    steps: list[tuple[bytes, bytes]] = field(default_factory=list)


class Conductor:
    """The shards of one run, wherever they are. Use as an async context manager.

    A shard that is lost is replaced: the new one reads the same samples, replays the settled
    levels, and its moments are compared with those measured before by their digests.

    Args:
        shards: starts shards.
        jobs: what each shard measures.
        on_progress: receives the progress of all shards together.
        max_replacements: how often shards are replaced in all.
        trace: receives when shards begin and end.
    """

    def __init__(
        self,
        shards: Shards,
        jobs: Sequence[ShardJob],
        on_progress: OnProgress,
        *,
        max_replacements: int,
        trace: RunTrace | None = None,
    ) -> None:
        self._shards = shards
        self._trace = trace or RunTrace()
        self._slots = [_Slot(job=job) for job in jobs]
        self._replacements_left = max_replacements
        self._progress = _Progress(len(jobs), on_progress)
        self._ending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()
        if self._ending is not None:
            await self._ending

    @property
    def open_shards(self) -> list[Shard]:
        """The shards that are open now."""
        return [slot.shard for slot in self._slots if slot.shard is not None]

    async def open(self) -> None:
        """Start all shards; each reads its samples while the assembling worker starts.

        Raises:
            CapacityError, WorkerDiedError: there is no place for them.
        """
        await _together([self._begin(slot) for slot in self._slots])

    async def answers(self, event: dict[str, Any], content: bytes) -> list[bytes]:
        """Return the answers of all shards to a request of the assembling worker.

        Raises:
            RefusedError: the run is not possible.
            WorkerDiedError: shards are lost more often than they are replaced.
            WorkerError: it is a request after the last one.
        """
        if self._ending is not None:
            raise WorkerError("the worker that assembles the results asked after its last request")
        call = event["event"]
        if layers := event.get("layers"):
            await self._progress.layers(progress_of(_as_progress(event, layers)))
        if call == "step":
            return await _together([self._requested(slot, content) for slot in self._slots])
        slots = self._slots[:1] if call == "first_samples" else self._slots
        members = [{"call": call} for _ in slots]
        if call == _LAST:
            asked = event["digests"]
            members = [one | {"digests": few} for one, few in zip(members, asked, strict=True)]
        found = await _together(
            [self._call(slot, one, None) for slot, one in zip(slots, members, strict=True)]
        )
        if call == _LAST:
            # Their memory and cores are free while the results are assembled.
            self._ending = asyncio.create_task(self._end())
        return found

    async def _begin(self, slot: _Slot) -> None:
        await self._open(slot)
        slot.first = asyncio.create_task(self._step(slot, b""))

    async def _requested(self, slot: _Slot, settled: bytes) -> bytes:
        first, slot.first = slot.first, None
        return await (self._step(slot, settled) if first is None else first)

    async def _end(self) -> None:
        """Close all shards; failures do not matter any more."""
        begun = [slot.first for slot in self._slots if slot.first is not None]
        for task in begun:
            task.cancel()
        await asyncio.gather(*begun, return_exceptions=True)
        await asyncio.gather(*(self._close(slot) for slot in self._slots), return_exceptions=True)

    async def _open(self, slot: _Slot) -> Shard:
        self._trace.shard_began(slot.job.index, slot.job.part.samples)
        slot.shard = await self._shards.open(slot.job, self._progress.report)
        return slot.shard

    async def _close(self, slot: _Slot, lost: str | None = None) -> None:
        shard, slot.shard = slot.shard, None
        self._trace.shard_ended(slot.job.index, lost)
        if shard is not None:
            await shard.close()

    async def _step(self, slot: _Slot, settled: bytes) -> bytes:
        answer = await self._call(slot, {"call": "step"}, settled)
        slot.steps.append((settled, hashlib.sha256(answer).digest()))
        return answer

    async def _call(self, slot: _Slot, members: dict[str, Any], content: bytes | None) -> bytes:
        assert slot.shard is not None
        try:
            return await slot.shard.call(members, content)
        except WorkerDiedError as error:
            lost = error
        while self._replacements_left:
            self._replacements_left -= 1
            index, steps = slot.job.index, slot.steps
            _log.warning(
                "Shard %d was lost and is replaced: %s",
                index,
                lost,
                extra={"action": "shard-replaced", "shard": index, "levels": len(steps)},
            )
            try:
                await self._close(slot, lost.message)
                shard = await self._open(slot)
                # What was observed of the samples is known after the first step.
                await _replay(shard, index, steps if members["call"] == "step" else steps[:1])
                return await shard.call(members, content)
            except WorkerDiedError as error:
                lost = error
        raise lost


async def _replay(shard: Shard, index: int, steps: Sequence[tuple[bytes, bytes]]) -> None:
    """Repeat the steps of a lost shard.

    Raises:
        RefusedError: the new one measured something else.
    """
    for level, (settled, digest) in enumerate(steps):
        answer = await shard.call({"call": "step"}, settled)
        if hashlib.sha256(answer).digest() != digest:
            raise RefusedError(
                f"shard {index} was replaced and measured other moments of level {level} than "
                "before: it needs the same versions and kind of processor",
                refusal="shard-mismatch",
            )


async def conduct(
    assembler: WorkerProcess, conductor: Conductor, on_progress: OnProgress
) -> dict[str, Any]:
    """Answer the requests of the assembling worker until it is done; return its result.

    Raises:
        RefusedError: the run is not possible.
        WorkerDiedError: it died, or shards are lost too often.
    """
    while True:
        event, content = await assembler.event()
        if event["event"] == "done":
            result: dict[str, Any] = event["result"]
            return result
        if event["event"] == "progress":
            await on_progress(progress_of(event))
        else:
            await assembler.write(frame({}, await conductor.answers(event, content)))


def _as_progress(event: dict[str, Any], layers: object) -> dict[str, Any]:
    return {
        "phase": _MEASURING,
        "done": 0,
        "total": None,
        "layers": layers,
        "layers_total": event["layers_total"],
    }


async def _together(calls: Sequence[Awaitable[Any]]) -> list[Any]:
    """Await all; the first error cancels the others and is raised alone."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Progress:
    """Adds up the progress of shards.

    Args:
        shards: number of shards.
        on_progress: receives the sums.
    """

    def __init__(self, shards: int, on_progress: OnProgress) -> None:
        self._read = [0] * shards
        self._measured: list[tuple[int, int] | None] = [None] * shards
        self._on_progress = on_progress
        self._lock = asyncio.Lock()

    async def report(self, index: int, step: Progress) -> None:
        """Take the progress of one shard into account; a replay does not lower it."""
        if step.phase == _READING:
            self._read[index] = max(self._read[index], step.done)
        else:
            known = self._measured[index]
            done = step.done if known is None else max(known[0], step.done)
            self._measured[index] = (done, step.total or 0)
        await self._emit(())

    async def layers(self, step: Progress) -> None:
        """Report layers whose statistics are settled."""
        await self._emit(step.layers, step.layers_total)

    async def _emit(self, layers: tuple[MeasuredLayer, ...], total: int | None = None) -> None:
        measured = [one for one in self._measured if one is not None]
        if len(measured) < len(self._measured):
            step = Progress(phase=_READING, done=sum(self._read), total=None)
        else:
            done, of = (sum(values) for values in zip(*measured, strict=True))
            step = Progress(phase=_MEASURING, done=done, total=of)
        async with self._lock:
            await self._on_progress(replace(step, layers=layers, layers_total=total))
