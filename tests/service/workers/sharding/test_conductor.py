"""The conductor of a run begins shards before they are asked, and ends them when they are done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from service.errors import WorkerDiedError, WorkerError
from service.telemetry.tracing import RunTrace
from service.workers.messages import StreamPart
from service.workers.protocol import Progress
from service.workers.sharding.conductor import Conductor
from service.workers.sharding.protocol import OnShardProgress, ShardJob


class PlayedShard:
    """Answers with the name of the call, and records what happens.

    Attributes:
        calls: the calls, and `close`.
        asked, closed: set at the first call, and at the end.
    """

    def __init__(self, *, dies: bool) -> None:
        self.calls: list[str] = []
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()
        self._dies = dies

    async def call(self, members: dict[str, Any], content: bytes | None = None) -> bytes:
        name: str = members["call"]
        self.calls.append(name + ("" if content is None else f" {content.decode()}"))
        self.asked.set()
        if self._dies:
            raise WorkerDiedError("played")
        return name.encode()

    async def close(self) -> None:
        self.calls.append("close")
        self.closed.set()


class PlayedShards:
    """Opens shards of which the first ones die at their first call."""

    def __init__(self, *, dying: int = 0) -> None:
        self.opened: list[PlayedShard] = []
        self._dying = dying

    async def open(self, job: ShardJob, on_progress: OnShardProgress) -> PlayedShard:
        del job, on_progress
        self.opened.append(PlayedShard(dies=len(self.opened) < self._dying))
        return self.opened[-1]


async def _ignore(_: Progress) -> None:
    return


class NotedTrace(RunTrace):
    """Notes what happens to shards."""

    def __init__(self) -> None:
        self.notes: list[tuple[object, ...]] = []

    def shard_began(self, shard: int, samples: int) -> None:
        self.notes.append(("began", shard, samples))

    def shard_ended(self, shard: int, lost: str | None = None) -> None:
        self.notes.append(("ended", shard, lost))


def conducted(
    shards: PlayedShards,
    act: Callable[[Conductor], Awaitable[None]],
    trace: RunTrace | None = None,
) -> None:
    """Open two shards, and act on their conductor."""
    part = StreamPart(start=0, samples=64, recorded=64, first=0, stop=1, skip=0)
    jobs = [
        ShardJob(index=index, part=part, batches=(), inputs=[], options={}, shards=2)
        for index in range(2)
    ]

    async def work() -> None:
        async with (
            asyncio.timeout(60),
            Conductor(shards, jobs, _ignore, max_replacements=1, trace=trace) as conductor,
        ):
            await conductor.open()
            await act(conductor)

    asyncio.run(work())


async def ask(conductor: Conductor, call: str, content: bytes = b"", **members: Any) -> list[bytes]:
    return await conductor.answers({"event": call, **members}, content)


def test_the_first_step_begins_before_it_is_requested() -> None:
    shards = PlayedShards()

    async def act(conductor: Conductor) -> None:
        for shard in shards.opened:
            await shard.asked.wait()
        assert await ask(conductor, "step") == [b"step", b"step"]
        assert await ask(conductor, "step", b"settled") == [b"step", b"step"]

    conducted(shards, act)
    assert [shard.calls for shard in shards.opened] == [["step ", "step settled", "close"]] * 2


def test_a_first_step_that_nobody_requests_is_cancelled() -> None:
    """A run that the assembling worker refuses."""
    shards = PlayedShards()

    async def act(_: Conductor) -> None:
        return

    conducted(shards, act)
    assert all(shard.calls[-1] == "close" for shard in shards.opened)


def test_a_shard_that_dies_in_its_first_step_is_replaced() -> None:
    shards = PlayedShards(dying=1)

    async def act(conductor: Conductor) -> None:
        assert await ask(conductor, "step") == [b"step", b"step"]

    trace = NotedTrace()
    conducted(shards, act, trace)
    assert [shard.calls for shard in shards.opened] == [["step ", "close"]] * 3
    own = [note for note in trace.notes if note[1] == 0]
    assert own == [("began", 0, 64), ("ended", 0, "played"), ("began", 0, 64), ("ended", 0, None)]


def test_a_loss_in_the_first_step_is_raised_where_the_step_is_requested() -> None:
    shards = PlayedShards(dying=3)

    async def act(conductor: Conductor) -> None:
        with pytest.raises(WorkerDiedError, match="played"):
            await ask(conductor, "step")

    conducted(shards, act)


def test_shards_end_after_the_last_request() -> None:
    shards = PlayedShards()

    async def act(conductor: Conductor) -> None:
        await ask(conductor, "step")
        await ask(conductor, "observation")
        assert await ask(conductor, "first_samples") == [b"first_samples"]
        assert await ask(conductor, "samples", digests=[[], []]) == [b"samples", b"samples"]
        for shard in shards.opened:
            await shard.closed.wait()
        with pytest.raises(WorkerError, match="after its last request"):
            await ask(conductor, "step")

    conducted(shards, act)
    closed = [shard.calls.count("close") for shard in shards.opened]
    assert closed == [1, 1]
