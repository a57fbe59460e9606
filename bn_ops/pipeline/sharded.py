"""Measure one stream in several places; see `bn_ops.core.sharding` and docs/sharding.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from bn_ops.core.estimators import Estimator, as_estimator
from bn_ops.core.options import (
    Budget,
    Execution,
    ProgressCallback,
    RecalibrateOptions,
    progress_callback,
)
from bn_ops.core.sharding import MeasurementPlan, SettledLevel, ShardMoments
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines import open_engine
from bn_ops.errors import OptionError
from bn_ops.input_check.engine import CheckedEngine
from bn_ops.model_sources import as_onnx, is_torch
from bn_ops.onnx_files.load import load_model
from bn_ops.pipeline.shard import Shard, plan_for, require_plan

if TYPE_CHECKING:
    import onnx
    from torch import nn
    from torch.export import ExportedProgram

    from bn_ops.core.batches import Select

    Call: TypeAlias = Callable[[nn.Module, Any], object]
    OnnxSource: TypeAlias = onnx.ModelProto | ExportedProgram | bytes | str | Path

__all__ = ["measure_shard", "open_shard", "plan_measurement", "store_statistics"]


def plan_measurement(
    model: nn.Module | OnnxSource,
    *,
    estimator: Estimator | str | None = None,
    layers: Sequence[str] | None = None,
    execution: Execution = "auto",
    allow_mixed: bool = False,
    adopt_untracked: bool = False,
    shared_passes: int = 20,
    shared_tolerance: float = 1e-5,
) -> MeasurementPlan:
    """Plan the measurement of one stream by several shards.

    A plan is a function of the model and the options alone: every place makes its own, and shards
    of different plans are rejected.

    Args:
        model: as for `bn_ops.recalibrate`. Modified: no. A module that calls
            `torch.nn.functional.batch_norm` instead of having BatchNorm modules cannot be sharded.
        estimator: as for `bn_ops.recalibrate`; `Auto` compares predictions and cannot be used.
        layers: as for `bn_ops.recalibrate`.
        execution: how the ONNX engine runs the network, for every shard; `auto` lets each shard
            choose by its first batch, and shards that choose differently are rejected.
        allow_mixed: accept shards with different versions, processors or executions. The result is
            right to float32's rounding then, but its last bits depend on who measures what.
        adopt_untracked: as for `bn_ops.recalibrate`.
        shared_passes: as for `bn_ops.recalibrate`.
        shared_tolerance: as for `bn_ops.recalibrate`.

    Raises:
        ModelError: the model cannot be recalibrated.
        OptionError: an option has no meaning for the model.
    """
    options = RecalibrateOptions(
        layers=layers,
        adopt_untracked=adopt_untracked,
        shared_passes=shared_passes,
        shared_tolerance=shared_tolerance,
    )
    engine = _open(model, (), options)
    if engine.name == "torch" and execution != "auto":
        raise OptionError("execution= is for an ONNX model; a module runs as it is")
    return plan_for(
        engine,
        options,
        estimator=as_estimator(estimator),
        execution=execution,
        allow_mixed=allow_mixed,
    )


def open_shard(
    model: nn.Module | OnnxSource,
    batches: Iterable[Any],
    plan: MeasurementPlan,
    *,
    start: int = 0,
    budget: Budget | None = None,
    progress: ProgressCallback | bool | None = None,
    select: Select | None = None,
    threads: int | None = None,
    call: Call | None = None,
    allow_mismatch: bool = False,
) -> Shard[Any, Any]:
    """Open one shard: a part of the stream that stays in this process.

    Args:
        model: the model of the plan. A module holds its source statistics again when the shard is
            closed; nothing else is modified.
        batches: the part of the stream, as for `bn_ops.recalibrate`; may be empty. Its first
            samples are checked as there. The result has the bits of one process only if that one
            reads the same batches.
        plan: the plan of all shards.
        start: position of the first sample in the whole stream: 0 for the first shard. Shards that
            begin at multiples of 64 samples give the bits of one process; see `shard_ranges`.
        budget: as for `bn_ops.recalibrate`; each shard has its own.
        progress: as for `bn_ops.recalibrate`.
        select: as for `bn_ops.recalibrate`.
        threads: as for `bn_ops.recalibrate`; does not change the result.
        call: as for `bn_ops.recalibrate`.
        allow_mismatch: as for `bn_ops.recalibrate`.

    Returns:
        A context manager with the methods `advance` and `step`.

    Raises:
        ShardMismatchError: the plan is of another model or of other layers.
        ModelError: the model cannot be recalibrated.
    """
    options = RecalibrateOptions(
        layers=plan.patterns,
        budget=budget,
        progress=progress_callback(progress),
        select=select,
        threads=threads,
        call=call,
        allow_mismatch=allow_mismatch,
        **plan.options,  # type: ignore[arg-type]  # by name
    )
    engine = _open(model, batches, options)
    require_plan(engine, options, plan)
    return Shard(engine, plan, options, start=start)


def measure_shard(
    model: nn.Module | OnnxSource,
    batches: Iterable[Any],
    plan: MeasurementPlan,
    settled: Iterable[SettledLevel] = (),
    **options: Any,
) -> ShardMoments:
    """Measure the level after the settled ones, and keep nothing.

    It replays the settled levels, so that a whole measurement costs half as many passes over the
    data as the network has levels. `open_shard` keeps the tensors between levels instead.

    Args:
        model: the model of the plan.
        batches: the part of the stream.
        plan: the plan of all shards.
        settled: the levels settled so far, in order.
        options: `start` and other keyword arguments of `open_shard`.

    Raises:
        ShardError: the levels are not in order, or not of this plan.
    """
    with open_shard(model, batches, plan, **options) as shard:
        moments = shard.advance()
        for level in settled:
            moments = shard.advance(level)
        return moments


@overload  # first: without protobuf's types a ModelProto matches nn.Module too
def store_statistics(
    model: OnnxSource,
    statistics: Mapping[LayerName, RunningStatistics],
    *,
    adopt_untracked: bool = False,
) -> onnx.ModelProto: ...


@overload
def store_statistics(
    model: nn.Module,
    statistics: Mapping[LayerName, RunningStatistics],
    *,
    adopt_untracked: bool = False,
) -> nn.Module: ...


def store_statistics(
    model: nn.Module | OnnxSource,
    statistics: Mapping[LayerName, RunningStatistics],
    *,
    adopt_untracked: bool = False,
) -> nn.Module | onnx.ModelProto:
    """Write statistics into a model, as `bn_ops.recalibrate` does at its end.

    Args:
        model: a module, which is modified and returned, or an ONNX model, which is copied.
        statistics: new running statistics by layer.
        adopt_untracked: as for `bn_ops.recalibrate`.

    Raises:
        OptionError: the model has no such layer, or with another number of channels; nothing has
            been written.
    """
    engine = _open(model, (), RecalibrateOptions(adopt_untracked=adopt_untracked))
    channels = {i.name: i.channels for i in engine.layers if i.name in engine.selected}
    for name, new in statistics.items():
        if name not in channels:
            raise OptionError(f"the model has no layer {name!r} that can be recalibrated")
        if channels[name] not in {None, new.channels}:
            raise OptionError(
                f"layer {name!r} has {channels[name]} channels, its statistics {new.channels}"
            )
    engine.store(statistics)
    found: nn.Module | onnx.ModelProto = engine.model
    return found


def _open(
    model: nn.Module | OnnxSource, batches: Iterable[Any], options: RecalibrateOptions
) -> CheckedEngine[Any, Any]:
    if is_torch(model):
        return open_engine("torch", model, batches, options)
    return open_engine("onnx", load_model(as_onnx(model)), batches, options)
