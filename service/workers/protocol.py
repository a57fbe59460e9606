"""The interface of workers, which do the work outside the server's process.

To stop a worker, cancel the task that awaits it; there is no other way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from service.storage.blobs.protocol import BlobContent
from service.telemetry.tracing import RunTrace
from service.workers.messages import StoredBatchRef


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchToValidate:
    """A batch that a worker must read before it is acknowledged.

    Attributes:
        recalibration_id: recalibration that it belongs to.
        inputs: inputs that it must hold, in JSON form.
        options: options of the recalibration; `preprocess` is used.
        file: complete, but not yet durable.
        format: name of its format.
        batch: its index, for messages; None while it is unknown.
    """

    recalibration_id: str
    inputs: list[dict[str, Any]]
    options: Mapping[str, Any]
    file: Path
    format: str
    batch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFile:
    """A few samples for a model, which are not stored.

    Attributes:
        model: the ONNX file.
        inputs: inputs that the samples must hold, in JSON form.
        file: the batch that holds the samples.
        format: name of its format.
        options: `preprocess`, null where the samples are arrays or none is chosen; for a preview
            also `size`, height and width where the model leaves them open.
    """

    model: Path
    inputs: list[dict[str, Any]]
    file: Path
    format: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFiles:
    """Where other machines find the files of a run.

    Attributes:
        model: the model in object storage.
        folder: key of the folder of batches.
        contents: returns pages of what the batches must contain, in stream order.
    """

    model: BlobContent
    folder: str
    contents: Callable[[], AsyncIterator[list[BlobContent]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run.

    Attributes:
        model: the ONNX file.
        inputs: inputs that a batch holds, in JSON form.
        batch_folder: folder of the batches; of the first one alone where there are stored files.
        batches: returns pages of batches in stream order, those of the source stream last.
        total: number of batches of the target stream.
        source_total: number of batches of the source stream.
        options: `method`, `estimator`, `layers`, `preprocess`, `memory_bytes`, `allow_mismatch`,
            `opset`, `target`, `max_samples`, `seed`.
        output: an empty folder; after a successful run it holds the files named in
            `service.workers.messages.RESULTS`.
        stored: the files for shards on other machines; None for files of this machine, or of a
            file system that all machines share.
        trace: receives what happens to shards.
    """

    model: Path
    inputs: list[dict[str, Any]]
    batch_folder: Path
    batches: Callable[[], AsyncIterator[list[StoredBatchRef]]]
    total: int
    options: Mapping[str, Any]
    output: Path
    source_total: int = 0
    stored: StoredFiles | None = None
    trace: RunTrace = field(default_factory=RunTrace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a finished run reports besides its files.

    Attributes:
        verdict: the report's verdict in JSON form, as the worker sent it; None if the report has
            none.
    """

    verdict: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLayer:
    """A layer whose statistics have been measured.

    Attributes:
        name: the layer, as the worker sent it.
        drift: how far its statistics moved in units of σ; None where that is not a finite number.
    """

    name: str
    drift: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a run: `done` of `total` in `phase`.

    Attributes:
        phase, done, total: as in `bn_ops.Progress`.
        layers: the layers that have been measured since the last step.
        layers_total: number of layers that the run measures; None while it is unknown.
    """

    phase: str
    done: int
    total: int | None
    layers: tuple[MeasuredLayer, ...] = ()
    layers_total: int | None = None


OnProgress = Callable[[Progress], Awaitable[None]]


class Executor(Protocol):
    """Does work outside the server's process."""

    async def inspect(self, model: Path) -> dict[str, Any]:
        """Return the `inputs`, `outputs`, `layers` and `warnings` of a model file.

        Raises:
            RefusedError: the model is not accepted; carries the code of bn_ops.
            WorkerDiedError, WorkerDeadlineError: the worker gave no answer.
            CapacityError: no worker could be started, or its disk is full.
        """
        ...

    async def convert(self, model: Path, output: Path) -> Path:
        """Convert an archive to an ONNX file in an empty folder; return its path.

        The archive holds a model with its data files, or is a `.pt2` file where the settings allow
        that.

        Raises:
            RefusedError: the archive is not accepted, or the sandbox is not in force.
            WorkerDiedError, WorkerDeadlineError: the worker gave no answer.
            CapacityError: no worker could be started, or its disk is full.
        """
        ...

    async def run(self, job: Job, on_progress: OnProgress) -> Outcome:
        """Do a run; when it returns, the results are in `job.output`.

        Raises:
            RefusedError: the run is not possible; carries the code of bn_ops.
            WorkerDiedError, WorkerDeadlineError: the worker gave no answer.
            CapacityError: no worker could be started, or its disk is full.
        """
        ...

    async def validate(self, batch: BatchToValidate) -> int:
        """Read a batch as a run would; return its number of samples.

        Raises:
            RefusedError: the batch does not fit the recalibration; carries the code.
            WorkerDiedError, WorkerDeadlineError: the worker gave no answer.
        """
        ...

    async def preview(self, samples: SampleFile) -> dict[str, Any]:
        """Return what the model sees of samples, as `service.samples.schemas.PreviewOut`.

        Raises:
            RefusedError: the samples cannot be read; carries the code.
            WorkerDiedError, WorkerDeadlineError, CapacityError: the worker gave no answer.
        """
        ...

    async def predict(self, samples: SampleFile, recalibrated: Path) -> dict[str, Any]:
        """Return the classes of samples before and after, as `PredictionsOut`.

        Args:
            samples: the samples, for the model before the recalibration.
            recalibrated: the ONNX file after it.

        Raises:
            RefusedError: the samples cannot be read; carries the code.
            WorkerDiedError, WorkerDeadlineError, CapacityError: the worker gave no answer.
        """
        ...

    async def close(self) -> None:
        """End idle workers."""
        ...

    async def sandbox_status(self) -> Mapping[str, Any]:
        """Return which sandbox restrictions are in force, for `/readyz`.

        Raises:
            WorkerDiedError, WorkerDeadlineError, CapacityError: no worker can be started.
        """
        ...
