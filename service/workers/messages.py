"""Messages from the server to a worker, and the names of the files that a worker writes.

A task is one line of JSON; for a run, one line for each batch follows. A validation worker gets
each batch later, as a line of JSON together with an open file. The workers of a sharded run
exchange frames: a line of JSON with the sizes of the contents that follow it (`frame`). Messages
are plain values; nothing is ever unpickled. The server writes a message with `to_line`, the worker
reads it with `from_line`.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any, Literal

FOLDED = "folded.onnx"
UNFOLDED = "unfolded.onnx"
STATISTICS = "statistics.safetensors"
REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
RESULTS = (FOLDED, UNFOLDED, STATISTICS, REPORT_JSON, REPORT_HTML)
"""Files that a run writes."""
CONVERTED = "model.onnx"
"""File that a conversion writes."""

TaskKind = Literal[
    "inspect",
    "convert",
    "recalibrate",
    "validate",
    "preview",
    "predict",
    "report_sandbox",
    "try_execution",
    "measure_shard",
    "assemble",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits of a worker.

    Attributes:
        memory_bytes: private memory (RLIMIT_DATA).
        file_bytes: maximum size of a file that it writes (RLIMIT_FSIZE).
        cpu_seconds: processor time (RLIMIT_CPU).
        frontier_memory_bytes, frontier_spill_bytes: the budget of `bn_ops`.
        threads: threads of the numerical libraries; 0 for their default.
        batch_bytes: maximum size of one batch after unpacking.
    """

    memory_bytes: int
    file_bytes: int
    cpu_seconds: int
    frontier_memory_bytes: int
    frontier_spill_bytes: int
    threads: int
    batch_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """The task of one worker.

    Attributes:
        kind: inspect a model, convert an archive to ONNX, run a recalibration, validate batches as
            they arrive, preview how a model's input check sees some samples, predict some samples
            before and after, or report which parts of the sandbox are in force. For a sharded run:
            try how the first batch is run, measure one shard, or assemble the results.
        parent: process id of the server; the worker does not outlive it.
        model: path of the ONNX file; for a conversion, of the archive.
        output: an empty folder, the only place where the worker may write.
        batch_folder: folder of the batches.
        total: number of batches; a line for each follows. To assemble, the number of shards.
        source_total: number of batches of the source stream; their lines come last.
        options: for a run `method`, `estimator`, `layers`, `preprocess`, `allow_mismatch`, `opset`,
            `target`, `max_samples`, `seed` and `report`, in shards also `execution` and, for one
            shard, `part`; for a validation, a preview and predictions `preprocess`; for a preview
            `size`; for a conversion `pt2` and `model_limit_bytes`.
        inputs: inputs that a batch must hold, in JSON form; for all tasks that read batches.
        samples: path of the batch that a preview or a prediction reads.
        samples_format: name of its format.
        recalibrated: path of the recalibrated model; for predictions.
        limits: resource limits.
    """

    kind: TaskKind
    parent: int
    output: str
    limits: Limits
    model: str = ""
    batch_folder: str = ""
    total: int = 0
    source_total: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)
    samples: str = ""
    samples_format: str = ""
    recalibrated: str = ""

    def to_line(self) -> bytes:
        """Return the task as one line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @staticmethod
    def from_line(line: bytes) -> WorkerTask:
        """Return the task that `to_line` wrote."""
        fields = json.loads(line)
        return WorkerTask(**(fields | {"limits": Limits(**fields["limits"])}))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatchRef:
    """Reference to a stored batch.

    Attributes:
        name: name of its file in the folder of batches.
        format: name of a format, see `service.formats.registry`.
        start: offset in that file; None where the batch is the whole file.
        bytes: size.
        samples: number of samples, as recorded when it was acknowledged.
    """

    name: str
    format: str
    start: int | None
    bytes: int
    samples: int = 0

    def to_line(self) -> builtins.bytes:
        """Return the reference as one line, without the number of samples."""
        return json.dumps([self.name, self.format, self.start, self.bytes]).encode() + b"\n"

    @staticmethod
    def from_line(line: builtins.bytes) -> StoredBatchRef:
        """Return the reference that `to_line` wrote."""
        name, kind, start, size = json.loads(line)
        return StoredBatchRef(name=name, format=kind, start=start, bytes=size)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPart:
    """The samples of one shard.

    Attributes:
        start: position of its first sample in the stream.
        samples: number of samples.
        recorded: number of samples of its batches, including those of neighboring shards.
        first: index of its first batch.
        stop: index after its last batch.
        skip: number of samples at the beginning of its first batch that belong to the shard before.
    """

    start: int
    samples: int
    recorded: int
    first: int
    stop: int
    skip: int = 0


def frame(members: dict[str, Any], contents: Sequence[builtins.bytes] = ()) -> builtins.bytes:
    """Return a line of JSON with `sizes`, followed by the contents."""
    line = json.dumps(members | {"sizes": [len(one) for one in contents]}).encode() + b"\n"
    return b"".join([line, *contents])


def read_frame(file: IO[builtins.bytes]) -> tuple[dict[str, Any], list[builtins.bytes]] | None:
    """Return the next frame of a file; None at its end."""
    line = file.readline()
    if not line:
        return None
    members = json.loads(line)
    return members, [file.read(size) for size in members["sizes"]]
