"""A shard of a run whose report is assembled elsewhere, and a trial of its first samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from bn_ops.core.estimators import Replace
from bn_ops.core.frontier import commit_layers
from bn_ops.core.options import Budget, Execution, RecalibrateOptions
from bn_ops.core.signature import Batch
from bn_ops.engines.onnx.engine import open_engine
from bn_ops.onnx_files.load import load_model
from bn_ops.pipeline.observation import PartRecorder, samples_to_bytes
from bn_ops.pipeline.shard import Shard, plan_for

if TYPE_CHECKING:
    import onnx

__all__ = ["RecordedShard", "Trial", "open_recorded_shard", "try_execution"]


class RecordedShard:
    """A shard that also keeps what the report of the whole run needs; everything is bytes.

    Use as a context manager, on one thread.

    Args:
        shard: measures the part of the stream.
        recorder: has recorded its samples.
    """

    def __init__(self, shard: Shard[onnx.ModelProto, Batch], recorder: PartRecorder[Batch]) -> None:
        self._shard = shard
        self._recorder = recorder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shard.close()

    @property
    def samples_read(self) -> int:
        """Number of samples read so far."""
        return self._shard.samples

    def step(self, settled: bytes | None) -> bytes:
        """See `Shard.step`."""
        return self._shard.step(settled)

    def observation(self, *, continued: bool = False) -> bytes:
        """Return the `ShardObservation` of all samples, after the first level.

        Args:
            continued: whether the first batch began in the shard before, which counts it.
        """
        found = self._shard.observation()
        return replace(found, batches=found.batches - continued).to_bytes()

    def first_samples(self) -> bytes:
        """Return copies of the first samples, in the batches in which they came."""
        return samples_to_bytes(self._shard.kept)

    def samples(self, digests: Sequence[bytes]) -> bytes:
        """Return samples by their digests, which are among the smallest of the shard's.

        Raises:
            ShardError: the shard has no sample with one of the digests.
        """
        return samples_to_bytes(self._recorder.samples(digests))


def open_recorded_shard(
    model: Path,
    batches: Iterable[Any],
    options: RecalibrateOptions,
    *,
    start: int,
    execution: Execution,
) -> RecordedShard:
    """Open a shard that also records what the report of a whole run needs.

    Args:
        model: an ONNX file.
        batches: the part of the stream.
        options: the options of the run.
        start: as for `open_shard`.
        execution: as for `plan_measurement`.

    Raises:
        ModelError: the model cannot be recalibrated.
    """
    engine = open_engine(load_model(model), batches, options)
    plan = plan_for(engine, options, estimator=Replace(), execution=execution, allow_mixed=False)
    recorder = PartRecorder(engine.adapter)
    shard = Shard(engine, plan, options, start=start, recorder=recorder)
    return RecordedShard(shard, recorder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How the first samples of a stream run.

    Attributes:
        execution: `graph` or `optimized`.
        waiting_bytes: bytes that wait at the frontier per sample, at the widest level.
    """

    execution: Execution
    waiting_bytes: int


def try_execution(model: Path, batch: Any, options: RecalibrateOptions) -> Trial:
    """Measure a few samples to find out how a stream will be run and what waits at its frontier.

    Args:
        model: an ONNX file.
        batch: the first samples of the stream.
        options: the options of the run; its budget does not apply.

    Raises:
        ModelError, BatchError: as `bn_ops.recalibrate`.
    """
    unlimited = replace(options, budget=Budget(memory_bytes=1 << 50, spill_bytes=0))
    engine = open_engine(load_model(model), [batch], unlimited)
    layers = {info.name: info for info in engine.layers if info.name in engine.selected}
    batches = list(engine.stream)
    with engine.frontier(batches) as frontier:
        commit_layers(frontier, layers, Replace())
        optimized = frontier.kernels()["execution"] != "graph"
        waiting = frontier.store.peak_memory_bytes
    samples = max(1, sum(map(engine.adapter.samples, batches)))
    return Trial(
        execution="optimized" if optimized else "graph", waiting_bytes=-(-waiting // samples)
    )
