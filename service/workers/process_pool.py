"""`Executor` with one worker process for each task, killed when nothing awaits it any more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from service.errors import (
    CapacityError,
    RefusedError,
    StorageFullError,
    WorkerDeadlineError,
    WorkerDiedError,
    WorkerError,
)
from service.settings import Settings
from service.storage.capacity import translated
from service.workers.memory import worker_bytes
from service.workers.messages import CONVERTED, Limits, TaskKind, WorkerTask
from service.workers.protocol import (
    BatchToValidate,
    Job,
    MeasuredLayer,
    OnProgress,
    Outcome,
    Progress,
    SampleFile,
)
from service.workers.validation_pool import MAX_BATCHES, ValidationPool, ValidationWorker

_log = logging.getLogger(__name__)
# One line holds the description of a whole model: some hundred bytes for each layer.
MAX_LINE_BYTES = 64 << 20
STDERR_TAIL_BYTES = 4096
# The operator's choice of numerical kernels. Kernels differ in the last bits, so a worker must use
# those of a run in the operator's own process. Thread counts come from the settings.
KERNEL_VARIABLES = (
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "BLIS_ARCH_TYPE"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE"),
    *("ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
    *("ONEDNN_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_MAX_CPU_ISA", "DNNL_CPU_ISA_HINTS"),
)
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
            limits=self._limits(timeout, job.options.get("memory_bytes")),
        )
        answer = await self._work(task, _lines(job), on_progress, timeout)
        return Outcome(verdict=answer["verdict"])

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
        """End idle workers."""
        await self._validation.close()

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
                limits=self._limits(MAX_BATCHES * settings.validation_timeout_seconds),
            )
            process = await _spawn(task, settings, stdin=theirs.fileno())
            stack.push_async_callback(_kill, process)
            stack.callback(asyncio.create_task(_tail(process)).cancel)
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
            limits=self._limits(timeout_seconds),
            **fields,
        )

    def _limits(self, timeout_seconds: float, memory_bytes: int | None = None) -> Limits:
        settings = self._settings
        memory = worker_bytes(memory_bytes, settings)
        return Limits(
            memory_bytes=memory,
            # The largest file is a spilled tensor or a result; these two values bound both.
            file_bytes=max(settings.frontier_spill_bytes, 2 * settings.model_limit_bytes),
            cpu_seconds=int(timeout_seconds * (os.cpu_count() or 1)) + 1,
            # In proportion to the worker's memory.
            frontier_memory_bytes=settings.frontier_memory_bytes
            * memory
            // settings.worker_memory_bytes,
            frontier_spill_bytes=settings.frontier_spill_bytes,
            threads=settings.worker_threads,
            batch_bytes=settings.batch_limit_bytes,
        )

    async def _work(
        self,
        task: WorkerTask,
        lines: AsyncIterator[bytes],
        on_progress: OnProgress,
        timeout_seconds: float,
    ) -> dict[str, Any]:
        process = await _spawn(task, self._settings)
        feeder = asyncio.create_task(_feed(process, task, lines))
        tail = asyncio.create_task(_tail(process))
        try:
            async with asyncio.timeout(timeout_seconds):
                answer = await _answer(process, on_progress)
                if answer is None:
                    raise WorkerDiedError(await _cause(process, tail))
                return answer
        except RefusedError as error:
            if error.refusal == WorkerError.code:
                _log.error("A worker failed: %s", await tail, extra={"action": "worker-failed"})
            raise
        except TimeoutError as error:
            text = f"the worker ran longer than {timeout_seconds:g} seconds and was killed"
            raise WorkerDeadlineError(text) from error
        finally:
            feeder.cancel()
            tail.cancel()
            await _kill(process)


def _temporary_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="bnrecal-"))


async def _spawn(task: WorkerTask, settings: Settings, *, stdin: int = PIPE) -> Process:
    """Start a worker: isolated interpreter, own session, scrubbed environment."""
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-m",
            "service.workers.child",
            stdin=stdin,
            stdout=PIPE,
            stderr=PIPE,
            cwd=task.output,
            env=_environment(task, settings),
            start_new_session=True,
            limit=MAX_LINE_BYTES,
        )
    except OSError as error:
        raise CapacityError(f"no worker could be started ({error.strerror})") from error


def _environment(task: WorkerTask, settings: Settings) -> dict[str, str]:
    found = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": task.output,
        "TMPDIR": task.output,
        "ORT_DISABLE_TELEMETRY": "1",
    }
    found |= {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}
    if settings.worker_threads:
        count = str(settings.worker_threads)
        found |= {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
    return found


async def _feed(process: Process, task: WorkerTask, lines: AsyncIterator[bytes]) -> None:
    """Write the task; the reader of the answer notices a worker that has died."""
    assert process.stdin is not None
    try:
        process.stdin.write(task.to_line())
        async for line in lines:
            process.stdin.write(line)
            await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        process.stdin.close()


async def _lines(job: Job) -> AsyncIterator[bytes]:
    async for page in job.batches():
        yield b"".join(batch.to_line() for batch in page)


async def _nothing() -> AsyncIterator[bytes]:
    empty: tuple[bytes, ...] = ()
    for line in empty:
        yield line


async def _ignore(step: Progress) -> None:
    del step


async def _answer(process: Process, on_progress: OnProgress) -> dict[str, Any] | None:
    """Return the answer, or None if the worker ends without one; report progress meanwhile."""
    assert process.stdout is not None
    async for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress":
            await on_progress(
                Progress(
                    phase=event["phase"],
                    done=event["done"],
                    total=event["total"],
                    layers=tuple(_layer(name, drift) for name, drift in event["layers"]),
                    layers_total=event["layers_total"],
                )
            )
        elif event["event"] == "refused":
            if event["code"] == StorageFullError.code:
                raise StorageFullError(event["message"])
            raise RefusedError(event["message"], refusal=event["code"], **event["details"])
        else:
            result: dict[str, Any] = event["result"]
            return result
    return None


def _layer(name: str, drift: float) -> MeasuredLayer:
    return MeasuredLayer(name=name, drift=drift if math.isfinite(drift) else None)


async def _tail(process: Process) -> str:
    """Read standard error to its end and return the last part."""
    assert process.stderr is not None
    kept = b""
    while chunk := await process.stderr.read(STDERR_TAIL_BYTES):
        kept = (kept + chunk)[-STDERR_TAIL_BYTES:]
    return kept.decode(errors="replace")


async def _cause(process: Process, tail: asyncio.Task[str]) -> str:
    """Return how a worker ended; its standard error is logged, never sent to a client."""
    status = await process.wait()
    _log.warning(
        "A worker died with status %d: %s", status, await tail, extra={"action": "worker-died"}
    )
    if status < 0:
        return f"the worker was killed by {signal.Signals(-status).name}"
    return f"the worker ended with status {status} and no answer"


async def _kill(process: Process) -> None:
    """Kill the process group of a worker, if it still runs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())
