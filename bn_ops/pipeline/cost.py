"""What a recalibration of many samples needs: memory, bytes, time and machines.

Two short runs on generated samples measure what one more sample costs; everything else is
arithmetic. docs/sharding.md explains the model and compares it with longer runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bn_ops.core.estimators import Replace
from bn_ops.core.frontier import update_layer
from bn_ops.core.json_form import Json, json_object
from bn_ops.core.moment_tree import CHUNK_SAMPLES
from bn_ops.core.options import Budget, silent
from bn_ops.core.sharding.messages import MOMENT_ARRAYS, STATISTICS_ARRAYS
from bn_ops.core.signature import Batch, TensorInfo
from bn_ops.engines.onnx import OnnxFrontier, prepare
from bn_ops.engines.onnx.describe import describe_prepared
from bn_ops.engines.onnx.optimized.executor import WORKING_BYTES
from bn_ops.errors import OptionError
from bn_ops.model_sources import as_onnx
from bn_ops.onnx_files.load import load_model

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from torch.export import ExportedProgram

__all__ = [
    "PLAN_OPTIONS",
    "CostPlan",
    "Machine",
    "RunCost",
    "SampleCost",
    "measure_cost",
    "plan_runs",
]

# Samples of the two runs; their difference has no fixed costs.
_FEW, _MANY = 16, 48

_REPETITIONS = 2

PLAN_OPTIONS = ("model", "samples", "shape", "nodes", "cores", "memory", "disk")
"""The parameters of `plan_runs`, which are the options of `bnrecal plan`."""

_GIB, _GB = 1 << 30, 1e9
_MINUTE, _HOUR = 60.0, 3600.0

_UNLIMITED = Budget(memory_bytes=1 << 50, spill_bytes=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One of the machines that a run is planned for.

    Attributes:
        cores: number of processor cores.
        memory_bytes: memory for tensors that wait at the frontier.
        disk_bytes_per_second: rate of writing and reading spilled tensors.
    """

    cores: int = 16
    memory_bytes: int = 96 << 30
    disk_bytes_per_second: float = 1e9

    def __post_init__(self) -> None:
        if self.cores < 1 or self.memory_bytes < 1 or not self.disk_bytes_per_second > 0:
            raise OptionError(f"a machine has cores, memory and a disk rate above 0, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """What a run needs.

    Attributes:
        samples: number of samples.
        nodes: number of machines.
        nodes_in_memory: least number of machines with which no tensor is spilled.
        input_bytes: size of the samples as arrays.
        waiting_bytes: largest size of the waiting tensors, on all machines.
        memory_bytes: of these, in the memory of one machine.
        spill_bytes: of these, in files of one machine.
        file_bytes: written to and read from the files of one machine during the run.
        message_bytes: exchanged between shards and conductor, one shard per machine.
        compute_seconds: time to prepare the network on one core and to compute on every core.
        spill_seconds: time to write and read spilled tensors.
    """

    samples: int
    nodes: int
    nodes_in_memory: int
    input_bytes: int
    waiting_bytes: int
    memory_bytes: int
    spill_bytes: int
    file_bytes: int
    message_bytes: int
    compute_seconds: float
    spill_seconds: float

    @property
    def seconds(self) -> float:
        """Time in all; computing and spilling are not counted as overlapping."""
        return self.compute_seconds + self.spill_seconds

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form."""
        return {**json_object(self), "seconds": self.seconds}


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCost:
    """What one sample costs, measured on this machine.

    Attributes:
        input_bytes: size of its input arrays.
        waiting_bytes: its largest share of the tensors that wait at the frontier.
        stored_bytes: its share of all tensors that ever wait there, each written and read once.
        core_seconds: processor time.
        start_seconds: processor time of a run before its first sample.
        level_bytes: for each level, its share of the tensors that wait after it, and of those
            that the level stores.
        channels: number of channels of all layers.
    """

    input_bytes: int
    waiting_bytes: int
    stored_bytes: int
    core_seconds: float
    start_seconds: float
    level_bytes: tuple[tuple[int, int], ...]
    channels: int

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.level_bytes)

    def run(self, samples: int, machine: Machine, *, nodes: int | None = None) -> RunCost:
        """Return what a run needs.

        Args:
            samples: number of samples, ≥ 1.
            machine: the kind of machine.
            nodes: number of machines; None for as many as keep all tensors in memory.
        """
        if samples < 1 or (nodes is not None and nodes < 1):
            raise OptionError(
                f"a run needs at least one sample and one machine, got {samples} and {nodes}"
            )
        waiting = samples * self.waiting_bytes
        # As the engine divides its budget.
        working = min(machine.cores * WORKING_BYTES, machine.memory_bytes // 4)
        usable = machine.memory_bytes - working
        in_memory = max(1, math.ceil(waiting / usable))
        count = in_memory if nodes is None else nodes
        per_node = math.ceil(waiting / count)
        spilled = max(0, per_node - usable)
        moved = 2 * self._file_bytes(samples / count, usable)
        return RunCost(
            samples=samples,
            nodes=count,
            nodes_in_memory=in_memory,
            input_bytes=samples * self.input_bytes,
            waiting_bytes=waiting,
            memory_bytes=per_node - spilled,
            spill_bytes=spilled,
            file_bytes=math.ceil(moved),
            message_bytes=count * self._message_bytes(samples / count),
            compute_seconds=self.start_seconds
            + samples * self.core_seconds / (count * machine.cores),
            spill_seconds=moved / machine.disk_bytes_per_second,
        )

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form."""
        return {**json_object(self), "levels": self.levels}

    def _file_bytes(self, samples: float, memory_bytes: int) -> float:
        """Return the bytes that a machine with this memory for tensors writes to files.

        What does not fit after a level is in files: a share of the older tensors, and new ones.
        """
        written = in_files = before = 0.0
        for waiting, stored in self.level_bytes:
            older = in_files * (waiting - stored) / before if before else 0.0
            in_files = max(samples * waiting - memory_bytes, older)
            written += in_files - older
            before = waiting
        return written

    def _message_bytes(self, samples: float) -> int:
        """Return the bytes up and down of one shard, for all levels."""
        chunks = max(1, math.ceil(samples / CHUNK_SAMPLES))
        nodes = 2 * chunks.bit_length()
        return 8 * self.channels * (nodes * MOMENT_ARRAYS + STATISTICS_ARRAYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPlan:
    """What one sample costs, and what runs on some numbers of machines need.

    Attributes:
        sample: what one sample costs.
        runs: what runs need, by number of machines.
    """

    sample: SampleCost
    runs: tuple[RunCost, ...]

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form."""
        return {"sample": self.sample.to_json(), "runs": [run.to_json() for run in self.runs]}

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        one, first = self.sample, self.runs[0]
        head = ("nodes", "memory each", "files each", "messages", "compute", "files", "time")
        rows = [head, *(_row(run) for run in self.runs)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            for row in rows
        ]
        costs = (
            f"one sample: input {_size(one.input_bytes)}, waiting at the frontier "
            f"{_size(one.waiting_bytes)}, stored in all {_size(one.stored_bytes)}, "
            f"{1000 * one.core_seconds:.3g} ms of a core (measured here), {one.levels} levels"
        )
        every = (
            f"{first.samples:,} samples: input {_size(first.input_bytes)}, "
            f"waiting {_size(first.waiting_bytes)}"
        )
        return [
            costs,
            every,
            "",
            *table,
        ]


def plan_runs(
    model: Path,
    *,
    samples: float,
    shape: str | None = None,
    nodes: float | None = None,
    cores: float | None = None,
    memory: float | None = None,
    disk: float | None = None,
) -> CostPlan:
    """Measure a model and predict runs, from the values of a command line.

    Args:
        model: an ONNX file.
        samples: number of samples.
        shape: shape of one sample, such as `3x224x224`.
        nodes: number of machines; None for one, and for as many as need no files.
        cores: cores of each machine; default 16.
        memory: memory of each machine for waiting tensors, in GiB; default 96.
        disk: rate of each machine's disk, in GB/s; default 1.

    Raises:
        OptionError: a value has no meaning, the model leaves its shape free, or the given shape
            does not fit it.
        ModelError: as `bn_ops.describe`.
    """
    sizes = None if shape is None else shape.lower().split("x")
    if sizes is not None and not all(size.isascii() and size.isdigit() for size in sizes):
        raise OptionError(f"{shape!r} is not a shape such as 3x224x224")
    given = {
        "cores": None if cores is None else int(cores),
        "memory_bytes": None if memory is None else int(memory * _GIB),
        "disk_bytes_per_second": None if disk is None else disk * _GB,
    }
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    machine = Machine(**known)
    sample = measure_cost(model, shape=None if sizes is None else [int(size) for size in sizes])
    wanted = [1, None] if nodes is None else [int(nodes)]
    runs = {run.nodes: run for run in (sample.run(int(samples), machine, nodes=n) for n in wanted)}
    return CostPlan(sample=sample, runs=tuple(runs.values()))


def _row(run: RunCost) -> tuple[str, ...]:
    sizes = (run.memory_bytes, run.spill_bytes, run.message_bytes)
    times = (run.compute_seconds, run.spill_seconds, run.seconds)
    return (f"{run.nodes:,}", *map(_size, sizes), *map(_duration, times))


def _size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:  # noqa: PLR2004 - the next unit
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.3g} TB"


def _duration(seconds: float) -> str:
    if seconds >= 2 * _HOUR:
        return f"{seconds / _HOUR:,.1f} h"
    if seconds >= 2 * _MINUTE:
        return f"{seconds / _MINUTE:.1f} min"
    return f"{seconds:.1f} s"


def measure_cost(
    model: onnx.ModelProto | ExportedProgram | bytes | str | Path,
    *,
    shape: Sequence[int] | None = None,
    threads: int = 1,
) -> SampleCost:
    """Measure what one sample of a model costs, by two short runs on generated samples.

    Args:
        model: an ONNX model, as for `bn_ops.describe`. Modified: no.
        shape: shape of one sample, for a model with one input whose sizes are free.
        threads: threads of the runs. On processors with two threads per core, several take more
            processor time than one.

    Raises:
        OptionError: the model leaves sizes of its inputs free and there is no `shape`, or the shape
            does not fit the input.
        ModelError: as `bn_ops.describe`.
    """
    source = load_model(as_onnx(model))
    info = describe_prepared(prepare(source))
    shapes = _shapes(info.inputs, shape)
    few = min(_timed(source, info.inputs, shapes, _FEW, threads) for _ in range(_REPETITIONS))
    many = min(_timed(source, info.inputs, shapes, _MANY, threads) for _ in range(_REPETITIONS))
    more = _MANY - _FEW
    core_seconds = max(many.seconds - few.seconds, 0.0) / more
    inputs = _generated(info.inputs, shapes, 1)
    return SampleCost(
        input_bytes=sum(array.nbytes for array in inputs.values()),
        waiting_bytes=(many.waiting - few.waiting) // more,
        stored_bytes=(many.stored - few.stored) // more,
        core_seconds=core_seconds,
        start_seconds=max(few.seconds - _FEW * core_seconds, 0.0),
        level_bytes=tuple(
            ((after.waiting - before.waiting) // more, (after.stored - before.stored) // more)
            for before, after in zip(few.levels, many.levels, strict=True)
        ),
        channels=sum(layer.channels or 0 for layer in info.layers if layer.reason is None),
    )


@dataclass(frozen=True, slots=True, order=True)
class _Level:
    """Bytes that wait after a level, and that the level stores."""

    waiting: int
    stored: int


@dataclass(frozen=True, slots=True, order=True)
class _Timed:
    """One run; ordered by the processor time of all its threads."""

    seconds: float
    waiting: int
    stored: int
    levels: tuple[_Level, ...]


def _timed(
    source: onnx.ModelProto,
    inputs: Sequence[TensorInfo],
    shapes: Mapping[str, tuple[int, ...]],
    samples: int,
    threads: int,
) -> _Timed:
    prepared = prepare(source)
    batch = _generated(inputs, shapes, samples)
    started = time.process_time()
    with OnnxFrontier(
        prepared,
        [batch],
        layers=prepared.eligible,
        budget=_UNLIMITED,
        progress=silent,
        threads=threads,
    ) as frontier:
        levels: list[_Level] = []
        stored = 0
        while measured := frontier.advance():
            frontier.commit(
                {
                    name: update_layer(prepared.eligible[name], tree.total(), Replace()).statistics
                    for name, tree in measured.items()
                }
            )
            store = frontier.store
            levels.append(_Level(store.waiting_bytes, store.stored_bytes - stored))
            stored = store.stored_bytes
        seconds = time.process_time() - started
        return _Timed(seconds, frontier.store.peak_memory_bytes, stored, tuple(levels))


def _shapes(
    inputs: Sequence[TensorInfo], shape: Sequence[int] | None
) -> dict[str, tuple[int, ...]]:
    """Return the shape of one sample of each input."""
    found: dict[str, tuple[int, ...]] = {}
    for info in inputs:
        sizes = tuple(shape) if shape is not None and len(inputs) == 1 else (info.shape or ())[1:]
        if info.shape is None or not all(isinstance(size, int) and size > 0 for size in sizes):
            raise OptionError(
                f"the model leaves sizes of its input {info.name!r} free ({info.shape}): pass the "
                "shape of one sample, such as 3x224x224"
            )
        declared = info.shape[1:]
        if len(sizes) != len(declared) or any(
            isinstance(size, int) and size != given
            for size, given in zip(declared, sizes, strict=True)
        ):
            raise OptionError(
                f"a sample of the model's input {info.name!r} has the shape {list(declared)}, not "
                f"{list(sizes)}: pass a shape that fits"
            )
        found[info.name] = tuple(int(size) for size in sizes if isinstance(size, int))
    return found


def _generated(
    inputs: Sequence[TensorInfo], shapes: Mapping[str, tuple[int, ...]], samples: int
) -> Batch:
    """Return samples of normally distributed numbers; zeros for inputs that are not floating."""
    rng = np.random.default_rng(0)
    found = {}
    for info in inputs:
        size = (samples, *shapes[info.name])
        if info.dtype.startswith("float"):
            found[info.name] = rng.standard_normal(size, dtype=np.float32).astype(info.dtype)
        else:
            found[info.name] = np.zeros(size, np.dtype(info.dtype))
    return found
