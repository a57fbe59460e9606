"""Measure one shard of a run, level by level; or try how the first batch of a stream is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bn_ops.core.options import Budget, RecalibrateOptions
from bn_ops.errors import BnOpsError
from bn_ops.pipeline.recorded_shard import RecordedShard, open_recorded_shard, try_execution
from service.errors import WorkerError
from service.formats.registry import Arrays
from service.workers.child.channel import Channel
from service.workers.child.read_batches import BatchReader, read_batches
from service.workers.messages import StoredBatchRef, StreamPart, WorkerTask, read_frame

__all__ = ["measure", "trial"]

# Samples of a trial: a group of the optimized execution.
_TRIED_SAMPLES = 16


def measure(task: WorkerTask, batches: Sequence[StoredBatchRef], channel: Channel) -> None:
    """Answer the server's calls until it closes its end.

    Raises:
        BnOpsError: as `bn_ops.recalibrate`; a batch is counted from the beginning of the stream.
    """
    part = StreamPart(**task.options["part"])
    try:
        _serve(task, part, batches, channel)
    except BnOpsError as error:
        if not part.first:
            raise
        details = dict(error.details())
        if isinstance(batch := details.get("batch"), int):
            details["batch"] = batch + part.first
        text = f"in the shard that begins with batch {part.first}, counted from there: "
        channel.refuse(error.code, text + error.message, details)


def _serve(
    task: WorkerTask, part: StreamPart, batches: Sequence[StoredBatchRef], channel: Channel
) -> None:
    read = read_batches(Path(task.batch_folder), batches, BatchReader.of(task), first=part.first)
    stream = _PartStream(read, part)
    with open_recorded_shard(
        Path(task.model),
        stream,
        _options(task, channel, allow_mismatch=part.start > 0),
        start=part.start,
        execution=task.options["execution"],
    ) as shard:
        while (call := read_frame(sys.stdin.buffer)) is not None:
            members, contents = call
            channel.send("answer", _answer(shard, stream, members, contents))


def _answer(
    shard: RecordedShard, stream: _PartStream, members: dict[str, Any], contents: Sequence[bytes]
) -> bytes:
    name = members["call"]
    if name == "step":
        return shard.step(contents[0] or None)
    if name == "observation":
        return shard.observation(continued=stream.continued)
    if name == "first_samples":
        return shard.first_samples()
    return shard.samples([bytes.fromhex(digest) for digest in members["digests"]])


class _PartStream:
    """The samples of a part; the first and the last batch may be cut.

    Args:
        stream: the arrays of the part's batches.
        part: which of their samples.

    Attributes:
        continued: whether the first batch began in the shard before; known once it was read.
    """

    def __init__(self, stream: Iterator[Arrays], part: StreamPart) -> None:
        self._stream = stream
        self._part = part
        self.continued = False

    def __iter__(self) -> Iterator[Arrays]:
        skip, left, read = self._part.skip, self._part.samples, 0
        for arrays in self._stream:
            samples = next(iter(arrays.values())).shape[0]
            read += samples
            taken = slice(skip, min(samples, skip + left))
            skip = max(0, skip - samples)
            if taken.start < taken.stop:
                self.continued |= taken.start > 0
                left -= taken.stop - taken.start
                yield {name: array[taken] for name, array in arrays.items()}
        if read != self._part.recorded:
            raise WorkerError(
                f"the batches hold {read} samples, and {self._part.recorded} are recorded"
            )


def trial(task: WorkerTask, batches: Sequence[StoredBatchRef]) -> dict[str, Any]:
    """Return how the first batch is run: `execution`, and `waiting_bytes` per sample."""
    first = next(read_batches(Path(task.batch_folder), batches, BatchReader.of(task)))
    few = {name: array[:_TRIED_SAMPLES] for name, array in first.items()}
    found = try_execution(Path(task.model), few, _options(task, None, allow_mismatch=True))
    return {"execution": found.execution, "waiting_bytes": found.waiting_bytes}


def _options(
    task: WorkerTask, channel: Channel | None, *, allow_mismatch: bool
) -> RecalibrateOptions:
    options = RecalibrateOptions(
        layers=task.options["layers"],
        budget=Budget(
            memory_bytes=task.limits.frontier_memory_bytes,
            spill_bytes=task.limits.frontier_spill_bytes,
            spill_folder=Path(task.output),
        ),
        threads=task.limits.threads or None,
        allow_mismatch=allow_mismatch or task.options.get("allow_mismatch", False),
    )
    if channel is None:
        return options
    return replace(
        options, progress=lambda step: channel.progress(step.phase, step.done, step.total)
    )
