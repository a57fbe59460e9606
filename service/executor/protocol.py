"""The seam between the operations and whatever computes.

Whoever cancels the awaiting task kills the worker: there is no other way to stop one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

FOLDED = "folded.onnx"
UNFOLDED = "unfolded.onnx"
STATISTICS = "statistics.safetensors"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
RESULTS = (FOLDED, UNFOLDED, STATISTICS, REPORT_JSON, REPORT_HTML)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFile:
    """One stored batch as a worker needs it.

    Attributes:
        index: its place in the stream.
        name: its file's name in the folder of batches.
        format: `safetensors` or `npy`.
    """

    index: int
    name: str
    format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run.

    Attributes:
        model: the ONNX file.
        batch_folder: where the batches lie.
        batches: pages of batches in the order of their indices.
        total: how many batches there are.
        options: `method`, `estimator`, `layers`, as the client sent them.
        output: an empty folder; on success it holds the files named in `RESULTS`.
    """

    model: Path
    batch_folder: Path
    batches: Callable[[], AsyncIterator[list[BatchFile]]]
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
        """
        ...

    async def run(self, job: Job, on_progress: OnProgress) -> None:
        """Do a job; when it returns, the results lie in `job.output`.

        Raises:
            RefusedError: it cannot be done; carries the code of bn_ops.
            WorkerDiedError, WorkerDeadlineError: the worker gave no answer.
        """
        ...

    async def protections(self) -> Mapping[str, Any]:
        """Return what holds a worker in, for `/readyz`.

        Raises:
            WorkerDiedError, WorkerDeadlineError: no worker can be started.
        """
        ...
