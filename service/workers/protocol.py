"""The seam between the operations and whatever computes.

Whoever cancels the awaiting task kills the worker: there is no other way to stop one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from service.workers.messages import Piece

FOLDED = "folded.onnx"
CONVERTED = "model.onnx"
UNFOLDED = "unfolded.onnx"
STATISTICS = "statistics.safetensors"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
RESULTS = (FOLDED, UNFOLDED, STATISTICS, REPORT_JSON, REPORT_HTML)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One batch that a worker must read before it is acknowledged.

    Attributes:
        recalibration: whose it is.
        inputs: what it must hold, in JSON form.
        options: the recalibration's; `preprocess` matters.
        file: where it lies, whole but not yet durable.
        format: its format.
        batch: its index, for messages; None while it is not known.
    """

    recalibration: str
    inputs: list[dict[str, Any]]
    options: Mapping[str, Any]
    file: Path
    format: str
    batch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run.

    Attributes:
        model: the ONNX file.
        inputs: what a batch holds, in JSON form.
        batch_folder: where the batches lie.
        batches: pages of batches in the order of their indices.
        total: how many batches there are.
        options: `method`, `estimator`, `layers`, `preprocess`, `memory_bytes`.
        output: an empty folder; on success it holds the files named in `RESULTS`.
    """

    model: Path
    inputs: list[dict[str, Any]]
    batch_folder: Path
    batches: Callable[[], AsyncIterator[list[Piece]]]
    total: int
    options: Mapping[str, Any]
    output: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run has come: `done` of `total` in `phase`."""

    phase: str
    done: int
    total: int | None


OnProgress = Callable[[Progress], Awaitable[None]]


class Executor(Protocol):
    """Runs work outside the API process."""

    async def describe(self, model: Path) -> dict[str, Any]:
        """Read a model file and return its `inputs`, `outputs`, `layers` and `warnings`.

        Raises:
            RefusedError: it cannot be taken; carries the code of bn_ops.
            WorkerDiedError, WorkerDeadlineError: the worker gave no answer.
            CapacityError: no worker could be started, or it had no room on the disk.
        """
        ...

    async def convert(self, model: Path, output: Path) -> Path:
        """Turn an archive into an ONNX file in an empty folder; return where it lies.

        It holds a model with its data files, or is a `.pt2` file where the settings allow that.

        Raises:
            RefusedError: it cannot be taken, or nothing would hold the worker in.
            WorkerDiedError, WorkerDeadlineError: the worker gave no answer.
            CapacityError: no worker could be started, or it had no room on the disk.
        """
        ...

    async def run(self, job: Job, on_progress: OnProgress) -> None:
        """Do a job; when it returns, the results lie in `job.output`.

        Raises:
            RefusedError: it cannot be done; carries the code of bn_ops.
            WorkerDiedError, WorkerDeadlineError: the worker gave no answer.
            CapacityError: no worker could be started, or it had no room on the disk.
        """
        ...

    async def check(self, batch: Check) -> int:
        """Read a batch as a run would; return its number of samples.

        Raises:
            RefusedError: it is no batch for this recalibration; carries the code.
            WorkerDiedError, WorkerDeadlineError: the worker gave no answer.
        """
        ...

    async def close(self) -> None:
        """End workers that wait for more to do."""
        ...

    async def protections(self) -> Mapping[str, Any]:
        """Return what holds a worker in, for `/readyz`.

        Raises:
            WorkerDiedError, WorkerDeadlineError, CapacityError: no worker can be started.
        """
        ...
