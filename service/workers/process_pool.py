"""`Executor` by worker processes: one for each piece of work, killed when nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
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
from service.storage.blobs.folder import STAGING
from service.storage.os_errors import translated
from service.workers.memory import worker_bytes
from service.workers.messages import Limits, Spec
from service.workers.protocol import CONVERTED, Check, Job, OnProgress, Progress
from service.workers.validation_pool import MOST_BATCHES, Checker, Checkers

_log = logging.getLogger(__name__)
# One line holds the description of a whole model: some hundred bytes for each layer.
LONGEST_LINE_BYTES = 64 << 20
STDERR_TAIL_BYTES = 4096
# The operator's choice of numerical kernels. Kernels differ in the last bits, so a worker must use
# those of a run in the operator's own process. Thread counts come from the settings.
KERNEL_VARIABLES = (
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "BLIS_ARCH_TYPE"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE"),
    *("ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
    *("ONEDNN_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_MAX_CPU_ISA", "DNNL_CPU_ISA_HINTS"),
)
# Models being read at one time; each worker loads onnx, about 200 MB.
DESCRIBE_CONCURRENCY = 2


class ProcessExecutor:
    """Runs `python -m service.workers.child` in a session of its own with a minimal environment."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._protections: dict[str, Any] | None = None
        self._describing = asyncio.Semaphore(DESCRIBE_CONCURRENCY)
        self._checkers = Checkers(
            settings.checkers, settings.check_deadline_seconds, self._start_checker
        )

    async def describe(self, model: Path) -> dict[str, Any]:
        """Read a model file and return what it is."""
        deadline = self._settings.describe_deadline_seconds
        async with self._describing, self._scratch() as folder:
            spec = Spec(
                kind="describe",
                parent=os.getpid(),
                model=str(model),
                output=str(folder),
                limits=self._limits(deadline),
            )
            return await self._work(spec, _nothing(), _ignore, deadline)

    async def convert(self, model: Path, output: Path) -> Path:
        """Turn an archive into an ONNX file."""
        settings = self._settings
        deadline = settings.describe_deadline_seconds
        spec = Spec(
            kind="convert",
            parent=os.getpid(),
            model=str(model),
            output=str(output),
            options={"pt2": settings.pt2, "model_limit_bytes": settings.model_limit_bytes},
            limits=self._limits(deadline),
        )
        async with self._describing:
            await self._work(spec, _nothing(), _ignore, deadline)
        return output / CONVERTED

    async def run(self, job: Job, on_progress: OnProgress) -> None:
        """Do a job; its results lie in `job.output`."""
        deadline = self._settings.worker_deadline_seconds
        spec = Spec(
            kind="adapt",
            parent=os.getpid(),
            model=str(job.model),
            inputs=job.inputs,
            output=str(job.output),
            batch_folder=str(job.batch_folder),
            total=job.total,
            options=dict(job.options),
            limits=self._limits(deadline, job.options.get("memory_bytes")),
        )
        await self._work(spec, _lines(job), on_progress, deadline)

    async def check(self, batch: Check) -> int:
        """Read a batch as a run would; return its number of samples."""
        return await self._checkers.check(batch)

    async def close(self) -> None:
        """End workers that wait for more to do."""
        await self._checkers.close()

    async def protections(self) -> Mapping[str, Any]:
        """Return what holds a worker in; a worker that does nothing else is asked once."""
        if self._protections is None:
            deadline = self._settings.describe_deadline_seconds
            async with self._scratch() as folder:
                spec = Spec(
                    kind="probe",
                    parent=os.getpid(),
                    output=str(folder),
                    limits=self._limits(deadline),
                )
                found = await self._work(spec, _nothing(), _ignore, deadline)
            self._protections = found | {
                "rlimits": True,
                "parent_death_signal": sys.platform == "linux",
                "deadline_seconds": self._settings.worker_deadline_seconds,
                "memory_bytes": self._settings.worker_memory_bytes,
            }
            _log.info(
                "Workers are held in by: %s",
                self._protections,
                extra={"action": "protections"} | {k: self._protections[k] for k in found},
            )
        return self._protections

    @contextlib.asynccontextmanager
    async def _scratch(self) -> AsyncIterator[Path]:
        # The blobs' staging folder is emptied at each start: a killed server leaves nothing behind.
        staging = self._settings.data_dir.absolute() / STAGING
        within = staging if staging.is_dir() else None
        with translated():
            made = await asyncio.to_thread(tempfile.mkdtemp, prefix="bnrecal-", dir=within)
        folder = Path(made)
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _start_checker(self, batch: Check) -> Checker:
        """Start a worker that reads one recalibration's batches; it sees no file but these."""
        async with contextlib.AsyncExitStack() as stack:
            folder = await stack.enter_async_context(self._scratch())
            with translated():
                pair = socket.socketpair()
            ours, theirs = (stack.enter_context(end) for end in pair)
            spec = Spec(
                kind="check",
                parent=os.getpid(),
                output=str(folder),
                options=dict(batch.options),
                inputs=batch.inputs,
                limits=self._limits(MOST_BATCHES * self._settings.check_deadline_seconds),
            )
            process = await _spawn(spec, self._settings, stdin=theirs.fileno())
            stack.push_async_callback(_kill, process)
            stack.callback(asyncio.create_task(_tail(process)).cancel)
            theirs.close()
            ours.sendall(spec.to_line())
            assert process.stdout is not None
            checker = Checker(
                answers=process.stdout,
                requests=ours,
                resources=contextlib.AsyncExitStack(),
                serves=batch.recalibration,
            )
            async with asyncio.timeout(self._settings.describe_deadline_seconds):
                await checker.answer()
            checker.resources = stack.pop_all()
            return checker

    def _limits(self, deadline_seconds: float, memory_bytes: int | None = None) -> Limits:
        settings = self._settings
        memory = worker_bytes(memory_bytes, settings)
        return Limits(
            memory_bytes=memory,
            # The largest file is a spilled tensor or a result, both bounded by these two.
            file_bytes=max(settings.frontier_spill_bytes, 2 * settings.model_limit_bytes),
            cpu_seconds=int(deadline_seconds * (os.cpu_count() or 1)) + 1,
            # A smaller worker keeps its share of it for the frontier.
            frontier_memory_bytes=settings.frontier_memory_bytes
            * memory
            // settings.worker_memory_bytes,
            frontier_spill_bytes=settings.frontier_spill_bytes,
            threads=settings.worker_threads,
            batch_bytes=settings.batch_limit_bytes,
        )

    async def _work(
        self,
        spec: Spec,
        lines: AsyncIterator[bytes],
        on_progress: OnProgress,
        deadline_seconds: float,
    ) -> dict[str, Any]:
        process = await _spawn(spec, self._settings)
        feeder = asyncio.create_task(_feed(process, spec, lines))
        tail = asyncio.create_task(_tail(process))
        try:
            async with asyncio.timeout(deadline_seconds):
                answer = await _answer(process, on_progress)
                if answer is None:
                    raise WorkerDiedError(await _cause(process, tail))
                return answer
        except RefusedError as error:
            if error.refusal == WorkerError.code:
                _log.error("A worker failed: %s", await tail, extra={"action": "worker-failed"})
            raise
        except TimeoutError as error:
            text = f"the worker ran longer than {deadline_seconds:g} seconds and was killed"
            raise WorkerDeadlineError(text) from error
        finally:
            feeder.cancel()
            tail.cancel()
            await _kill(process)


async def _spawn(spec: Spec, settings: Settings, *, stdin: int = PIPE) -> Process:
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
            cwd=spec.output,
            env=_environment(spec, settings),
            start_new_session=True,
            limit=LONGEST_LINE_BYTES,
        )
    except OSError as error:
        raise CapacityError(f"no worker could be started ({error.strerror})") from error


def _environment(spec: Spec, settings: Settings) -> dict[str, str]:
    found = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": spec.output,
        "TMPDIR": spec.output,
        "ORT_DISABLE_TELEMETRY": "1",
    }
    found |= {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}
    if settings.worker_threads:
        count = str(settings.worker_threads)
        found |= {"OMP_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": count}
    return found


async def _feed(process: Process, spec: Spec, lines: AsyncIterator[bytes]) -> None:
    """Write the job; a worker that dies meanwhile is noticed by whoever reads its answer."""
    assert process.stdin is not None
    try:
        process.stdin.write(spec.to_line())
        async for line in lines:
            process.stdin.write(line)
            await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return
    finally:
        process.stdin.close()


async def _lines(job: Job) -> AsyncIterator[bytes]:
    async for page in job.batches():
        yield b"".join(piece.to_line() for piece in page)


async def _nothing() -> AsyncIterator[bytes]:
    empty: tuple[bytes, ...] = ()
    for line in empty:
        yield line


async def _ignore(step: Progress) -> None:
    del step


async def _answer(process: Process, on_progress: OnProgress) -> dict[str, Any] | None:
    """Read events until the answer; None when the worker ends without one."""
    assert process.stdout is not None
    async for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "progress":
            await on_progress(
                Progress(phase=event["phase"], done=event["done"], total=event["total"])
            )
        elif event["event"] == "refused":
            if event["code"] == StorageFullError.code:
                raise StorageFullError(event["message"])
            raise RefusedError(event["message"], refusal=event["code"], **event["details"])
        else:
            result: dict[str, Any] = event["result"]
            return result
    return None


async def _tail(process: Process) -> str:
    """Drain standard error and keep its end."""
    assert process.stderr is not None
    kept = b""
    while chunk := await process.stderr.read(STDERR_TAIL_BYTES):
        kept = (kept + chunk)[-STDERR_TAIL_BYTES:]
    return kept.decode(errors="replace")


async def _cause(process: Process, tail: asyncio.Task[str]) -> str:
    """Say how a worker ended; what it wrote goes to the log, not to a client."""
    status = await process.wait()
    _log.warning(
        "A worker died with status %d: %s", status, await tail, extra={"action": "worker-died"}
    )
    if status < 0:
        return f"the worker was killed by {signal.Signals(-status).name}"
    return f"the worker ended with status {status} and no answer"


async def _kill(process: Process) -> None:
    """End a worker and whatever it has started; harmless when it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())
