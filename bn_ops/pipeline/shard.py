"""One shard of a measurement: a part of the stream, held at the frontier between levels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Generic, Self, TypeVar

from bn_ops.core.engine import EngineFrontier
from bn_ops.core.estimators import Estimator
from bn_ops.core.options import Execution, RecalibrateOptions
from bn_ops.core.sharding.messages import SettledLevel, ShardMoments
from bn_ops.core.sharding.plan import MeasurementPlan, common_kernels
from bn_ops.errors import ShardError, ShardMismatchError
from bn_ops.input_check.engine import CheckedEngine
from bn_ops.input_check.result import InputCheck
from bn_ops.pipeline.observation import PartRecorder, ShardObservation
from bn_ops.pipeline.stream import ObservedStream, check_first_samples

__all__ = ["Shard", "plan_for", "require_plan"]

# Positions are below 2^61, so that those of a shard's samples are below 2^62.
_MAX_START = 1 << 61

# Options of the torch engine that change what is measured.
_OPTIONS = ("adopt_untracked", "shared_passes", "shared_tolerance")

ModelT = TypeVar("ModelT")
BatchT = TypeVar("BatchT")


def plan_for(
    engine: CheckedEngine[ModelT, BatchT],
    options: RecalibrateOptions,
    *,
    estimator: Estimator,
    execution: Execution,
    allow_mixed: bool,
) -> MeasurementPlan:
    """Return the plan for an engine's model and layers; its stream is not read."""
    return MeasurementPlan(
        engine=engine.name,
        model_sha256=_model_digest(engine),
        layers={info.name: info for info in engine.layers if info.name in engine.selected},
        patterns=options.layers,
        execution=execution,
        estimator=estimator,
        options={name: getattr(options, name) for name in _OPTIONS},
        allow_mixed=allow_mixed,
    )


def _model_digest(engine: CheckedEngine[ModelT, BatchT]) -> str:
    """Return the sha256 of the model: its file, or all its tensors by name."""
    with engine.digests() as digests:
        if digests.source is not None:
            return digests.source
        digest = hashlib.sha256()
        for name, value in sorted(digests.before().items()):
            digest.update(f"{name}\0{value}\0".encode())
    for info in sorted(engine.layers, key=lambda info: info.name):
        digest.update(f"{info.name}\0{info.eps!r}\0".encode())
        if info.statistics is not None:
            digest.update(info.statistics.mean.tobytes() + info.statistics.var.tobytes())
    return digest.hexdigest()


class Shard(Generic[ModelT, BatchT]):
    """A part of the stream; measures one level per step.

    Use as a context manager, on one thread: leaving it restores a module and removes spilled
    tensors. A repeated step returns the same moments, so a caller may ask again.

    Args:
        engine: the model and the part of the stream.
        plan: the plan of all shards, which the engine's own must equal (see `require_plan`).
        options: the run's options.
        start: position of the first sample in the whole stream.
        recorder: collects what a report needs to know of the samples; None for nothing.
    """

    def __init__(
        self,
        engine: CheckedEngine[ModelT, BatchT],
        plan: MeasurementPlan,
        options: RecalibrateOptions,
        *,
        start: int,
        recorder: PartRecorder[BatchT] | None = None,
    ) -> None:
        if not 0 <= start < _MAX_START:
            raise ShardError(f"start= is a position in the stream from 0, got {start}")
        self._engine = engine
        self._recorder = recorder
        self._plan = plan
        self._options = options
        self._start = start
        self._stack = ExitStack()
        self._stream: ObservedStream[BatchT] | None = None
        self._frontier: EngineFrontier | None = None
        self._settled: SettledLevel | None = None
        self._moments: ShardMoments | None = None
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Restore a module, and remove spilled tensors."""
        self._failed = True
        self._stack.close()

    @property
    def samples(self) -> int:
        """Number of samples read so far."""
        return 0 if self._stream is None else self._stream.samples

    @property
    def kept(self) -> Sequence[BatchT]:
        """Copies of the first samples that were read."""
        return () if self._stream is None else self._stream.kept

    def observation(self) -> ShardObservation:
        """Return what the shard saw of its samples, after its first level.

        Raises:
            ShardError: it has not read them, or was opened without a recorder.
        """
        if self._stream is None or self._recorder is None:
            raise ShardError("the shard has observed no samples")
        return self._recorder.observation(self._stream.batches)

    def step(self, settled: bytes | None) -> bytes:
        """Do the same as `advance`, from bytes to bytes."""
        level = None if settled is None else SettledLevel.from_bytes(settled)
        return self.advance(level).to_bytes()

    def advance(self, settled: SettledLevel | None = None) -> ShardMoments:
        """Measure the next level.

        Args:
            settled: the statistics of the level measured last; None for the first level, which
                reads the stream.

        Returns:
            The moments of the level. Without layers, every layer has been measured, or the shard
            has no samples.

        Raises:
            ShardMismatchError: the statistics are of another plan, or of other layers.
            ShardError: they are not those of the level measured last, or a step has failed before.
            BatchError, ModelError, ResourceError: as `bn_ops.recalibrate`.
        """
        if self._failed:
            raise ShardError("the shard is closed, or a step has failed: open it again")
        if self._is_repeated(settled):
            assert self._moments is not None
            return self._moments
        self._check(settled)
        self._failed = True
        if settled is not None and self._frontier is not None:
            self._frontier.commit(settled.statistics)
        self._moments = self._measured(0 if settled is None else settled.level + 1)
        self._settled = settled
        self._failed = False
        return self._moments

    def _is_repeated(self, settled: SettledLevel | None) -> bool:
        if self._moments is None or (settled is None) != (self._settled is None):
            return False
        if settled is None or self._settled is None:
            return True
        return settled.to_bytes() == self._settled.to_bytes()

    def _check(self, settled: SettledLevel | None) -> None:
        if settled is None:
            if self._moments is not None:
                raise ShardError("the shard has passed its first level: open it again to restart")
            return
        if settled.plan != self._plan.sha256:
            raise ShardMismatchError("the statistics are of another plan than the shard's")
        level = None if self._moments is None else self._moments.level
        if self._moments is None or settled.level != level:
            raise ShardError(
                f"the statistics are of level {settled.level}, but the shard has "
                + ("not measured a level yet" if level is None else f"measured level {level} last")
            )
        if self._moments.samples:
            self._check_layers(settled, self._moments)

    def _check_layers(self, settled: SettledLevel, moments: ShardMoments) -> None:
        if settled.statistics.keys() != moments.layers.keys():
            raise ShardMismatchError(
                f"the shard measured the layers {sorted(moments.layers)}, the statistics are of "
                f"{sorted(settled.statistics)}"
            )
        for name, new in settled.statistics.items():
            channels = next(iter(moments.layers[name].values())).channels
            if channels != new.channels:
                raise ShardMismatchError(
                    f"layer {name!r} has {channels} channels, its statistics {new.channels}"
                )
        if not settled.statistics:
            raise ShardError("every layer has been measured")

    def _measured(self, level: int) -> ShardMoments:
        if level == 0:
            self._open()
        if self._frontier is None or self._stream is None:
            return ShardMoments(
                plan=self._plan.sha256, kernels={}, level=level, samples=0, layers={}
            )
        layers = {name: tree.nodes() for name, tree in self._frontier.advance().items()}
        return ShardMoments(
            plan=self._plan.sha256,
            kernels={**common_kernels(), **self._frontier.kernels()},
            level=level,
            samples=self._stream.samples,
            layers=layers,
        )

    def _open(self) -> None:
        """Open the frontier, unless there is no batch."""
        batches: Iterator[BatchT] = self._engine.stream
        first = next(batches, None)
        if first is None:
            return
        check: Callable[[Sequence[BatchT]], InputCheck | None]
        check = partial(check_first_samples, self._engine, self._options)
        if self._recorder is not None and self._options.allow_mismatch:
            check = _unchecked  # where the report is assembled, the samples are checked
        self._stream = ObservedStream(
            chain([first], batches),
            self._engine.adapter,
            check,
            None if self._recorder is None else self._recorder.probe,
            on_features=None if self._recorder is None else self._recorder.add_features,
        )
        self._frontier = self._stack.enter_context(
            self._engine.frontier(self._stream, start=self._start, execution=self._plan.execution)
        )


def _unchecked(samples: Sequence[object]) -> None:
    """Do not check the first samples."""
    del samples


def require_plan(
    engine: CheckedEngine[ModelT, BatchT], options: RecalibrateOptions, plan: MeasurementPlan
) -> None:
    """Check that a plan is that of an engine's model and layers.

    Raises:
        ShardMismatchError: it is not; the message names the difference.
    """
    own = plan_for(
        engine,
        options,
        estimator=plan.estimator,
        execution=plan.execution,
        allow_mixed=plan.allow_mixed,
    )
    if own.sha256 != plan.sha256:
        raise ShardMismatchError(_difference(own, plan))


def _difference(own: MeasurementPlan, plan: MeasurementPlan) -> str:
    """Return a sentence that names the first difference of two plans."""
    if own.engine != plan.engine:
        return f"the plan is for the engine {plan.engine!r}, the shard's model needs {own.engine!r}"
    if own.model_sha256 != plan.model_sha256:
        return (
            f"the shard's model (sha256 {own.model_sha256[:12]}…) is not the one of the plan "
            f"({plan.model_sha256[:12]}…)"
        )
    return (
        "the shard's layers or options are not those of the plan: "
        f"{replace(own, layers={})} and {replace(plan, layers={})}"
    )
