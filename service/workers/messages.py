"""What the server tells a worker: one line of JSON, then, for a run, one line for each batch.

A worker that checks batches gets each of them later, as a line of JSON with an open file beside it.
Values only; nothing here is ever unpickled. The server writes it with `to_line`, the worker reads
it with `from_line`.
"""

from __future__ import annotations

import builtins
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker may use.

    Attributes:
        memory_bytes: private memory (RLIMIT_DATA).
        file_bytes: largest file that it may write (RLIMIT_FSIZE).
        cpu_seconds: processor time (RLIMIT_CPU).
        frontier_memory_bytes, frontier_spill_bytes: the budget of `bn_ops`.
        threads: of the numerical libraries; 0 leaves the choice to them.
        batch_bytes: most bytes that one batch may unpack to.
    """

    memory_bytes: int
    file_bytes: int
    cpu_seconds: int
    frontier_memory_bytes: int
    frontier_spill_bytes: int
    threads: int
    batch_bytes: int = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One piece of work.

    Attributes:
        kind: read a model, turn one into ONNX, run a recalibration, check batches as they come in,
            or say what holds the worker in.
        parent: process id of the server; the worker does not outlive it.
        model: path of the ONNX file; of a conversion, of the archive.
        output: an empty folder, the only place where the worker may write.
        batch_folder: where the batches lie.
        total: number of batches; as many lines follow.
        options: of a run `method`, `estimator`, `layers`, `preprocess`; of a check `preprocess`; of
            a conversion `pt2` and `model_limit_bytes`.
        inputs: what a batch must hold, in JSON form; of a run and of a check.
        limits: what it may use.
    """

    kind: Literal["describe", "convert", "adapt", "check", "probe"]
    parent: int
    output: str
    limits: Limits
    model: str = ""
    batch_folder: str = ""
    total: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    inputs: list[dict[str, Any]] = field(default_factory=list)

    def to_line(self) -> bytes:
        """Write it as one line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @staticmethod
    def from_line(line: bytes) -> Spec:
        """Read what `to_line` wrote."""
        fields = json.loads(line)
        return Spec(**(fields | {"limits": Limits(**fields["limits"])}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Where one stored batch lies.

    Attributes:
        name: of its file in the folder of batches.
        format: name of its format, see `service.formats.registry`.
        start: where it begins in that file; None where the file is its own.
        bytes: its size.
    """

    name: str
    format: str
    start: int | None
    bytes: int

    def to_line(self) -> builtins.bytes:
        """Write it as one line."""
        return json.dumps([self.name, self.format, self.start, self.bytes]).encode() + b"\n"

    @staticmethod
    def from_line(line: builtins.bytes) -> Piece:
        """Read what `to_line` wrote."""
        name, kind, start, size = json.loads(line)
        return Piece(name=name, format=kind, start=start, bytes=size)
