"""`Executor` with one worker process for each task, killed when nothing awaits it any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.errors import WorkerDeadlineError
from service.settings import Settings
from service.storage.capacity import translated
from service.workers.messages import CONVERTED, StoredBatchRef, TaskKind, WorkerTask
from service.workers.process import WorkerProcess, kill, limits, progress_of, spawn, tail
from service.workers.protocol import (
    BatchToValidate,
    Job,
    OnProgress,
    Outcome,
    Progress,
    SampleFile,
)
from service.workers.sharding.on_ray import RayCluster
from service.workers.sharding.run import can_be_sharded, run_in_shards
from service.workers.validation_pool import MAX_BATCHES, ValidationPool, ValidationWorker

_log = logging.getLogger(__name__)
# Models that are read, or run on a few samples, at the same time; each worker loads onnx, about
# 200 MB.
MAX_INSPECTIONS = 2


class ProcessExecutor:
    """Runs `python -m service.workers.child` in a session of its own with a minimal environment."""

    def __init__(self, settings: Settings, *, workspace: Callable[[], Path] | None = None) -> None:
        """Prepare to start workers.

        Args:
            settings: limits and timeouts.
            workspace: creates an empty private folder for a worker; by default a temporary folder
                of the system. The server passes one that is emptied at its next start.
        """
        self._settings = settings
        self._workspace = workspace or _temporary_folder
        self._cluster = RayCluster(settings.runner) if settings.runner else None
        self._sandbox_status: dict[str, Any] | None = None
        self._inspecting = asyncio.Semaphore(MAX_INSPECTIONS)
        self._validation = ValidationPool(
            settings.validation_workers,
            settings.validation_timeout_seconds,
            self._start_validation_worker,
        )

    async def inspect(self, model: Path) -> dict[str, Any]:
        """Return the description of a model file."""
        timeout = self._settings.inspection_timeout_seconds
        async with self._inspecting, self._scratch() as folder:
            task = self._task("inspect", folder, timeout, model=str(model))
            return await self._work(task, _nothing(), _ignore, timeout)

    async def convert(self, model: Path, output: Path) -> Path:
        """Convert an archive to an ONNX file."""
        settings = self._settings
        timeout = settings.inspection_timeout_seconds
        options = {"pt2": settings.pt2, "model_limit_bytes": settings.model_limit_bytes}
        task = self._task("convert", output, timeout, model=str(model), options=options)
        async with self._inspecting:
            await self._work(task, _nothing(), _ignore, timeout)
        return output / CONVERTED

    async def run(self, job: Job, on_progress: OnProgress) -> Outcome:
        """Do a run; its results are in `job.output`."""
        if can_be_sharded(self._settings, job.options, job.source_total):
            found = await run_in_shards(
                self._settings,
                self._scratch,
                self._try_execution,
                self._cluster,
                job,
                on_progress,
            )
            if found is not None:
                return found
        timeout = self._settings.worker_timeout_seconds
        task = WorkerTask(
            kind="recalibrate",
            parent=os.getpid(),
            model=str(job.model),
            inputs=job.inputs,
            output=str(job.output),
            batch_folder=str(job.batch_folder),
            total=job.total,
            source_total=job.source_total,
            options=dict(job.options),
            limits=limits(self._settings, timeout, job.options.get("memory_bytes")),
        )
        answer = await self._work(task, _lines(job), on_progress, timeout)
        return Outcome(verdict=answer["verdict"])

    async def _try_execution(
        self, task: WorkerTask, batches: Sequence[StoredBatchRef]
    ) -> dict[str, Any]:
        async def lines() -> AsyncIterator[bytes]:
            for batch in batches:
                yield batch.to_line()

        timeout = self._settings.inspection_timeout_seconds
        return await self._work(task, lines(), _ignore, timeout)

    async def validate(self, batch: BatchToValidate) -> int:
        """Read a batch as a run would; return its number of samples."""
        return await self._validation.validate(batch)

    async def preview(self, samples: SampleFile) -> dict[str, Any]:
        """Return what the model sees of samples."""
        return await self._look("preview", samples)

    async def predict(self, samples: SampleFile, recalibrated: Path) -> dict[str, Any]:
        """Return the classes of samples before and after."""
        return await self._look("predict", samples, recalibrated=str(recalibrated))

    async def _look(self, kind: TaskKind, samples: SampleFile, **fields: str) -> dict[str, Any]:
        """Have a worker read samples that are not stored."""
        timeout = self._settings.inspection_timeout_seconds
        async with self._inspecting, self._scratch() as folder:
            task = self._task(
                kind,
                folder,
                timeout,
                model=str(samples.model),
                inputs=samples.inputs,
                samples=str(samples.file),
                samples_format=samples.format,
                options=dict(samples.options),
                **fields,
            )
            return await self._work(task, _nothing(), _ignore, timeout)

    async def close(self) -> None:
        """End idle workers, and the connection to a cluster."""
        await self._validation.close()
        if self._cluster is not None:
            await asyncio.to_thread(self._cluster.disconnect)

    async def sandbox_status(self) -> Mapping[str, Any]:
        """Return which sandbox restrictions are in force; a worker is asked once."""
        if self._sandbox_status is None:
            timeout = self._settings.inspection_timeout_seconds
            async with self._scratch() as folder:
                task = self._task("report_sandbox", folder, timeout)
                found = await self._work(task, _nothing(), _ignore, timeout)
            self._sandbox_status = found | {
                "rlimits": True,
                "parent_death_signal": sys.platform == "linux",
                "timeout_seconds": self._settings.worker_timeout_seconds,
                "memory_bytes": self._settings.worker_memory_bytes,
            }
            _log.info(
                "Sandbox restrictions in force: %s",
                self._sandbox_status,
                extra={"action": "sandbox"} | {k: self._sandbox_status[k] for k in found},
            )
        return self._sandbox_status

    @contextlib.asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        with translated():
            folder = await asyncio.to_thread(self._workspace)
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _start_validation_worker(self, batch: BatchToValidate) -> ValidationWorker:
        """Start a worker that reads the batches of one recalibration and sees no other file."""
        settings = self._settings
        async with contextlib.AsyncExitStack() as stack:
            folder = await stack.enter_async_context(self._scratch())
            with translated():
                pair = socket.socketpair()
            ours, theirs = (stack.enter_context(end) for end in pair)
            task = WorkerTask(
                kind="validate",
                parent=os.getpid(),
                output=str(folder),
                options=dict(batch.options),
                inputs=batch.inputs,
                limits=limits(settings, MAX_BATCHES * settings.validation_timeout_seconds),
            )
            process = await spawn(task, settings, stdin=theirs.fileno())
            stack.push_async_callback(kill, process)
            stack.callback(asyncio.create_task(tail(process)).cancel)
            theirs.close()
            ours.sendall(task.to_line())
            assert process.stdout is not None
            worker = ValidationWorker(
                answers=process.stdout,
                requests=ours,
                resources=contextlib.AsyncExitStack(),
                recalibration_id=batch.recalibration_id,
            )
            async with asyncio.timeout(settings.inspection_timeout_seconds):
                await worker.answer()
            worker.resources = stack.pop_all()
            return worker

    def _task(
        self, kind: TaskKind, output: Path, timeout_seconds: float, **fields: Any
    ) -> WorkerTask:
        return WorkerTask(
            kind=kind,
            parent=os.getpid(),
            output=str(output),
            limits=limits(self._settings, timeout_seconds),
            **fields,
        )

    async def _work(
        self,
        task: WorkerTask,
        lines: AsyncIterator[bytes],
        on_progress: OnProgress,
        timeout_seconds: float,
    ) -> dict[str, Any]:
        worker = await WorkerProcess.start(task, self._settings)
        feeder = asyncio.create_task(worker.write_all(lines))
        try:
            async with asyncio.timeout(timeout_seconds):
                return await _answer(worker, on_progress)
        except TimeoutError as error:
            text = f"the worker ran longer than {timeout_seconds:g} seconds and was killed"
            raise WorkerDeadlineError(text) from error
        finally:
            feeder.cancel()
            await worker.close()


def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="bnrecal-"))


async def _lines(job: Job) -> AsyncIterator[bytes]:
    async for page in job.batches():
        yield b"".join(batch.to_line() for batch in page)


async def _nothing() -> AsyncIterator[bytes]:
    empty: tuple[bytes, ...] = ()
    for line in empty:
        yield line


async def _ignore(step: Progress) -> None:
    del step


async def _answer(worker: WorkerProcess, on_progress: OnProgress) -> dict[str, Any]:
    """Return the answer; report progress meanwhile."""
    while True:
        event, _ = await worker.event()
        if event["event"] != "progress":
            result: dict[str, Any] = event["result"]
            return result
        await on_progress(progress_of(event))
