"""One worker process: how it is started, what it answers, and how it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from typing import Any, Self

from service.errors import (
    CapacityError,
    RefusedError,
    StorageFullError,
    WorkerDiedError,
    WorkerError,
)
from service.settings import Settings
from service.workers.memory import worker_bytes
from service.workers.messages import Limits, WorkerTask
from service.workers.protocol import MeasuredLayer, Progress

_log = logging.getLogger(__name__)
# One line holds the description of a whole model: some hundred bytes for each layer.
MAX_LINE_BYTES = 64 << 20
STDERR_TAIL_BYTES = 4096
# The largest message of a shard holds a digest and features of each of its samples.
MAX_CONTENT_BYTES = 512 << 20
# The operator's choice of numerical kernels. Kernels differ in the last bits, so a worker must use
# those of a run in the operator's own process. Thread counts come from the settings.
KERNEL_VARIABLES = (
    *("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "BLIS_ARCH_TYPE"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE"),
    *("ATEN_CPU_CAPABILITY", "NPY_DISABLE_CPU_FEATURES", "NPY_ENABLE_CPU_FEATURES"),
    *("ONEDNN_MAX_CPU_ISA", "ONEDNN_CPU_ISA_HINTS", "DNNL_MAX_CPU_ISA", "DNNL_CPU_ISA_HINTS"),
)


class WorkerProcess:
    """A worker that is asked over its standard input and answers on its standard output.

    Args:
        process: the process, whose three streams are pipes.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._tail = asyncio.create_task(tail(process))

    @classmethod
    async def start(cls, task: WorkerTask, settings: Settings) -> Self:
        """Start a worker and write its task.

        Raises:
            CapacityError: no worker could be started.
        """
        worker = cls(await spawn(task, settings))
        try:
            await worker.write(task.to_line())
        except BaseException:
            await worker.close()
            raise
        return worker

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def write(self, *parts: bytes) -> None:
        """Write to its standard input; `event` notices a worker that has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._process.stdin.writelines(parts)
            await self._process.stdin.drain()

    async def write_all(self, lines: AsyncIterator[bytes]) -> None:
        """Write lines, and close its standard input."""
        assert self._process.stdin is not None
        try:
            async for line in lines:
                await self.write(line)
        finally:
            self._process.stdin.close()

    async def event(self) -> tuple[dict[str, Any], bytes]:
        """Return its next event, and the bytes that follow it.

        Raises:
            RefusedError: it refuses the task.
            StorageFullError: its disk is full.
            WorkerDiedError: it has ended.
        """
        stream = self._process.stdout
        assert stream is not None
        line = await stream.readline()
        if not line.endswith(b"\n"):
            raise WorkerDiedError(await cause(self._process, self._tail))
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "refused":
            await self._refuse(event)
        size = event.get("bytes", 0)
        if not 0 <= size <= MAX_CONTENT_BYTES:
            raise WorkerError(f"the worker sent {size} bytes at once")
        try:
            return event, await stream.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise WorkerDiedError(await cause(self._process, self._tail)) from error

    async def close(self) -> None:
        """Kill it, if it still runs."""
        self._tail.cancel()
        await kill(self._process)

    async def _refuse(self, event: dict[str, Any]) -> None:
        if event["code"] == StorageFullError.code:
            raise StorageFullError(event["message"])
        if event["code"] == WorkerError.code:
            text = await self._tail
            _log.error("A worker failed: %s", text, extra={"action": "worker-failed"})
        raise RefusedError(event["message"], refusal=event["code"], **event["details"])


def limits(settings: Settings, timeout_seconds: float, memory_bytes: int | None = None) -> Limits:
    """Return the resource limits of a worker.

    Args:
        settings: with the maxima.
        timeout_seconds: time after which it is killed.
        memory_bytes: what its recalibration requests; None for the maximum.
    """
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


def progress_of(event: dict[str, Any]) -> Progress:
    """Return the progress that an event reports."""
    return Progress(
        phase=event["phase"],
        done=event["done"],
        total=event["total"],
        layers=tuple(_layer(name, drift) for name, drift in event["layers"]),
        layers_total=event["layers_total"],
    )


def _layer(name: str, drift: float) -> MeasuredLayer:
    return MeasuredLayer(name=name, drift=drift if math.isfinite(drift) else None)


async def spawn(task: WorkerTask, settings: Settings, *, stdin: int = PIPE) -> Process:
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


async def tail(process: Process) -> str:
    """Read standard error to its end and return the last part."""
    assert process.stderr is not None
    kept = b""
    while chunk := await process.stderr.read(STDERR_TAIL_BYTES):
        kept = (kept + chunk)[-STDERR_TAIL_BYTES:]
    return kept.decode(errors="replace")


async def cause(process: Process, tail: asyncio.Task[str]) -> str:
    """Return how a worker ended; its standard error is logged, never sent to a client."""
    status = await process.wait()
    _log.warning(
        "A worker died with status %d: %s", status, await tail, extra={"action": "worker-died"}
    )
    if status < 0:
        return f"the worker was killed by {signal.Signals(-status).name}"
    return f"the worker ended with status {status} and no answer"


async def kill(process: Process) -> None:
    """Kill the process group of a worker, if it still runs."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())
