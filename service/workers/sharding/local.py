"""Shards as workers of this machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from service.settings import Settings
from service.workers.messages import Limits, WorkerTask, frame
from service.workers.process import WorkerProcess, progress_of
from service.workers.sharding.protocol import OnShardProgress, ShardJob

__all__ = ["LocalShard", "LocalShards"]


class LocalShards:
    """Starts one worker for each shard.

    Args:
        settings: settings of the process.
        limits: limits of each worker.
        scratch: creates a private folder for a worker, for the time of a context.
        model: the ONNX file.
        batch_folder: folder of the batches.
    """

    def __init__(
        self,
        settings: Settings,
        limits: Limits,
        scratch: Callable[[], AbstractAsyncContextManager[Path]],
        *,
        model: Path,
        batch_folder: Path,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._scratch = scratch
        self._model = model
        self._batch_folder = batch_folder

    async def open(self, job: ShardJob, on_progress: OnShardProgress) -> LocalShard:
        """Start a worker."""
        async with AsyncExitStack() as stack:
            folder = await stack.enter_async_context(self._scratch())
            task = WorkerTask(
                kind="measure_shard",
                parent=os.getpid(),
                model=str(self._model),
                inputs=job.inputs,
                output=str(folder),
                batch_folder=str(self._batch_folder),
                total=len(job.batches),
                options={**job.options, "part": asdict(job.part)},
                limits=self._limits,
            )
            worker = await WorkerProcess.start(task, self._settings)
            stack.push_async_callback(worker.close)
            # The pipe holds some kilobytes until the worker has started.
            lines = [batch.to_line() for batch in job.batches]
            writing = asyncio.create_task(worker.write(*lines))
            stack.callback(writing.cancel)
            return LocalShard(worker, writing, job.index, on_progress, stack.pop_all())


class LocalShard:
    """One worker."""

    def __init__(
        self,
        worker: WorkerProcess,
        writing: asyncio.Task[None],
        index: int,
        on_progress: OnShardProgress,
        resources: AsyncExitStack,
    ) -> None:
        self._worker = worker
        self._writing = writing
        self._index = index
        self._on_progress = on_progress
        self._resources = resources

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._worker.pid

    async def call(self, members: dict[str, Any], content: bytes | None = None) -> bytes:
        """See `Shard.call`."""
        await self._writing
        await self._worker.write(frame(members, [] if content is None else [content]))
        while True:
            event, answer = await self._worker.event()
            if event["event"] == "answer":
                return answer
            await self._on_progress(self._index, progress_of(event))

    async def close(self) -> None:
        """Kill the worker and remove its folder."""
        await asyncio.shield(self._resources.aclose())
