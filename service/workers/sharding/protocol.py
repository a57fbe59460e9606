"""The interface between the conductor of a run and the shards, wherever they are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.workers.messages import StoredBatchRef, StreamPart
from service.workers.protocol import Progress

OnShardProgress = Callable[[int, Progress], Awaitable[None]]
"""Receives the index of a shard and its progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardJob:
    """What one shard measures.

    Attributes:
        index: number of the shard, from 0.
        part: its samples.
        batches: references to its batches.
        inputs: inputs that a batch holds, in JSON form.
        options: as for a run, and `execution`.
        shards: number of shards of the run.
    """

    index: int
    part: StreamPart
    batches: Sequence[StoredBatchRef]
    inputs: list[dict[str, Any]]
    options: Mapping[str, Any]
    shards: int


class Shard(Protocol):
    """A shard that holds its part of the stream."""

    async def call(self, members: dict[str, Any], content: bytes | None = None) -> bytes:
        """Make a call of the worker, see `service.workers.child.shard`; return its answer.

        Args:
            members: `call`, which is `step`, `observation`, `first_samples` or `samples`, and the
                call's arguments.
            content: for `step` the statistics of the last level, empty at first.

        Raises:
            RefusedError: the run is not possible.
            WorkerDiedError, CapacityError: the shard is lost, and another one may replace it.
        """
        ...

    async def close(self) -> None:
        """End the shard; has no effect when repeated."""
        ...


class Shards(Protocol):
    """Starts shards."""

    async def open(self, job: ShardJob, on_progress: OnShardProgress) -> Shard:
        """Start a shard; it reads its samples at the first call.

        Raises:
            WorkerDiedError, CapacityError: there is no place for it now.
        """
        ...
