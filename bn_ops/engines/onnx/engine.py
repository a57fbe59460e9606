"""Recalibration of an ONNX model, from a ModelProto to a new one and its report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bn_ops.core.batches import Select, named_batches
from bn_ops.core.estimators import Estimator
from bn_ops.core.frontier import Settlement, settle
from bn_ops.core.layers import select_layers
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.core.train_accumulator import Variance, check_variance
from bn_ops.diagnostics.autocorrelation import SampleSeries, watched
from bn_ops.diagnostics.before_after import COMPARED_SAMPLES, Comparison
from bn_ops.diagnostics.build_report import layer_reports, warnings_of
from bn_ops.diagnostics.labeled_error import Evaluation
from bn_ops.diagnostics.report import Report, StreamReport
from bn_ops.engines.onnx.batchnorm import statistics_tensors
from bn_ops.engines.onnx.describe import require_layers
from bn_ops.engines.onnx.forward import OnnxRun
from bn_ops.engines.onnx.frontier import OnnxFrontier
from bn_ops.engines.onnx.prepare import PreparedModel, StatisticsWriter, prepare
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.engines.onnx.train_pass import settle_batches
from bn_ops.errors import ModelWithoutBatchNormError, StreamEmptyError
from bn_ops.onnx_files.digests import FrozenDigests
from bn_ops.options import Budget
from bn_ops.progress import ProgressCallback, silent
from bn_ops.result import Recalibration
from bn_ops.version import __version__

if TYPE_CHECKING:
    import onnx

__all__ = ["recalibrate_onnx"]


def recalibrate_onnx(
    source: onnx.ModelProto,
    batches: Iterable[Any],
    *,
    estimator: Estimator,
    method: str = "exact",
    layers: Sequence[str] | None = None,
    budget: Budget | None = None,
    progress: ProgressCallback | None = None,
    select: Select | None = None,
    threads: int | None = None,
    variance: Variance = "population",
    compare: bool = False,
    evaluate: Iterable[Any] | None = None,
) -> Recalibration[onnx.ModelProto]:
    """Recalibrate; see `bn_ops.recalibrate`. The source model is not changed.

    `variance` is for `method="batch"`: see `bn_ops.core.train_accumulator.Variance`.
    """
    check_variance(variance)
    started = time.perf_counter()
    prepared = prepare(source)
    labelled = None if evaluate is None else _labelled(evaluate, prepared)
    if labelled is not None:
        labelled.score(OnnxRun(prepared, threads=threads))
    chosen = _choose(prepared, layers)
    series = SampleSeries()
    named = named_batches(batches, model_inputs(prepared.model), select=select)
    stream = _Stream(watched(named, series))
    run = _Run(prepared, stream, chosen, estimator, progress or silent, threads)
    with FrozenDigests(source, prepared.model, _changeable(prepared, chosen)) as digests:
        settled = run.exact(budget or Budget()) if method == "exact" else run.batch(variance)
        source_sha256, frozen = digests.source(), digests.report()
    reports = layer_reports(prepared.layers, chosen, settled)
    correlation = series.correlation()
    report = Report(
        bnrecal=__version__,
        engine="onnx",
        method=method,
        estimator=estimator.to_json(),
        layers_selected=None if layers is None else tuple(layers),
        source_sha256=source_sha256,
        stream=StreamReport(
            batches=stream.batches, samples=stream.samples, correlation=correlation
        ),
        layers=reports,
        frozen=frozen,
        timings={"recalibrate": time.perf_counter() - started},
        warnings=warnings_of(reports, stream.samples, correlation),
    )
    if compare:
        report = run.compared(report, settled)
    if labelled is not None:
        labelled.score(OnnxRun(prepared, threads=threads))
        report = labelled.added_to(report)
    return Recalibration(
        model=prepared.model,
        statistics=_statistics(settled),
        report=report,
        calibration=tuple(stream.kept),
    )


def _labelled(pairs: Iterable[Any], prepared: PreparedModel) -> Evaluation[Batch]:
    inputs = model_inputs(prepared.model)
    return Evaluation.of(pairs, lambda batches: named_batches(batches, inputs))


def _choose(prepared: PreparedModel, patterns: Sequence[str] | None) -> frozenset[LayerName]:
    require_layers(prepared)
    eligible = prepared.eligible
    if not eligible:
        first = prepared.layers[0]
        raise ModelWithoutBatchNormError(
            f"none of the model's {len(prepared.layers)} BatchNorm layers can be recalibrated; "
            f"{first.name!r}: {first.reason}"
        )
    return select_layers(eligible, patterns)


@dataclass(frozen=True, slots=True)
class _Run:
    """What both methods need."""

    prepared: PreparedModel
    stream: _Stream
    chosen: frozenset[LayerName]
    estimator: Estimator
    progress: ProgressCallback
    threads: int | None

    def exact(self, budget: Budget) -> dict[LayerName, Settlement]:
        with OnnxFrontier(
            self.prepared,
            self.stream,
            layers=self.chosen,
            budget=budget,
            progress=self.progress,
            threads=self.threads,
        ) as frontier:
            return settle(frontier, self.prepared.eligible, self.estimator)

    def batch(self, variance: Variance) -> dict[LayerName, Settlement]:
        layers = {n: info for n, info in self.prepared.eligible.items() if n in self.chosen}
        return settle_batches(
            self.prepared,
            self.stream,
            layers=layers,
            estimator=self.estimator,
            variance=variance,
            progress=self.progress,
            threads=self.threads,
        )

    def compared(self, report: Report, settled: Mapping[LayerName, Settlement]) -> Report:
        """Add how the network ran on the first samples before and after; the model is as after."""
        stream, prepared = self.stream, self.prepared
        comparison = Comparison(stream.kept, min(stream.samples, COMPARED_SAMPLES))
        # In one copy: a large model leaves no room for two.
        writer = StatisticsWriter(prepared)
        for statistics in (_source_statistics(prepared, settled), _statistics(settled)):
            writer.write(statistics)
            comparison.observe(OnnxRun(prepared, threads=self.threads))
        return comparison.added_to(report, prepared.layers, settled)


def _statistics(settled: Mapping[LayerName, Settlement]) -> dict[LayerName, RunningStatistics]:
    return {name: settlement.statistics for name, settlement in settled.items()}


def _source_statistics(
    prepared: PreparedModel, names: Iterable[LayerName]
) -> dict[LayerName, RunningStatistics]:
    found = {name: prepared.eligible[name].statistics for name in names}
    return {name: statistics for name, statistics in found.items() if statistics is not None}


def _changeable(prepared: PreparedModel, chosen: frozenset[LayerName]) -> frozenset[str]:
    tensors = statistics_tensors(prepared.model.graph)
    return frozenset(tensor for name in chosen for tensor in tensors[name])


class _Stream:
    """Counts a stream as it passes, keeps its first samples, and refuses an empty one."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._source = batches
        self.batches = 0
        self.samples = 0
        self.kept: list[Batch] = []

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._source:
            count = next(iter(batch.values())).shape[0]
            room = COMPARED_SAMPLES - self.samples
            if room > 0:
                self.kept.append({name: array[:room].copy() for name, array in batch.items()})
            self.batches += 1
            self.samples += count
            yield batch
        if self.samples == 0:
            raise StreamEmptyError(
                "the stream holds no batch: statistics are never made up from nothing"
            )
