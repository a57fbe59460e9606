"""The run: from an opened engine to new statistics and a report, the same for every engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar

from bn_ops.core.engine import BatchAdapter, Digests, EngineNotes
from bn_ops.core.frontier import LayerUpdate, commit_layers
from bn_ops.core.statistics import LayerName
from bn_ops.core.train_accumulator import TrainAccumulators
from bn_ops.diagnostics.autocorrelation import SampleSeries, sample_features
from bn_ops.diagnostics.before_after import COMPARED_SAMPLES, Comparison
from bn_ops.diagnostics.build_report import frozen_report, layer_reports, warnings_of
from bn_ops.diagnostics.labeled_error import Evaluation
from bn_ops.diagnostics.report import LayerReport, Report, StreamReport
from bn_ops.errors import BnOpsError, StreamEmptyError
from bn_ops.input_check.engine import CheckedEngine
from bn_ops.input_check.judging import require_plausible
from bn_ops.input_check.result import InputCheck
from bn_ops.options import RecalibrateOptions
from bn_ops.result import Recalibration
from bn_ops.version import __version__

__all__ = ["run"]

ModelT = TypeVar("ModelT")
BatchT = TypeVar("BatchT")


def run(
    engine: CheckedEngine[ModelT, BatchT], options: RecalibrateOptions, *, started: float
) -> Recalibration[ModelT]:
    """Recalibrate as a transaction: the model changes only if every step succeeds.

    The network is observed with its source statistics before the new ones are stored. If anything
    fails after that, the source statistics are restored.

    Args:
        engine: the opened engine.
        options: the run's options.
        started: `time.perf_counter()` from before the engine was opened.
    """
    evaluation = _evaluation(engine, options)
    with engine.digests() as digests:
        if evaluation is not None:
            evaluation.score(engine.forward)
        stream = _ObservedStream(
            engine.stream, engine.adapter, partial(_check_input, engine, options)
        )
        updates = _measure(engine, stream, options)
        statistics = {name: update.statistics for name, update in updates.items()}
        comparison = _comparison(engine, stream) if options.compare else None
        if comparison is not None:
            comparison.observe(engine.forward)
        restore = engine.store(statistics)
        try:
            notes = engine.notes(updates)
            report = _report(engine, options, stream, updates, notes, digests, started)
            if comparison is not None:
                comparison.observe(engine.forward)
                report = comparison.added_to(report, notes.layers, updates)
            if evaluation is not None:
                evaluation.score(engine.forward)
                report = evaluation.added_to(report)
            return Recalibration(
                model=engine.model,
                statistics=statistics,
                report=report,
                calibration=engine.adapter.named(stream.kept),
                _restore=restore,
            )
        except BaseException:
            restore()
            raise


def _check_input(
    engine: CheckedEngine[ModelT, BatchT], options: RecalibrateOptions, samples: Sequence[BatchT]
) -> InputCheck | None:
    """Check the first samples; None where they cannot be run up to the first layers.

    Raises:
        InputMismatchError: the data cannot be what the model was trained on.
    """
    try:
        found = engine.check_input(samples)
    except BnOpsError:
        # The run itself reports what is wrong with the model or the batch, and where.
        return None
    if not options.allow_mismatch:
        require_plausible(found)
    return found


def _input_warnings(check: InputCheck | None) -> tuple[str, ...]:
    if check is None:
        return ()
    return tuple(f"{finding.message}; {finding.suggestion}" for finding in check.findings)


def _evaluation(
    engine: CheckedEngine[ModelT, BatchT], options: RecalibrateOptions
) -> Evaluation[BatchT] | None:
    if options.evaluate is None:
        return None
    return Evaluation.of(options.evaluate, engine.adapter.read)


def _comparison(
    engine: CheckedEngine[ModelT, BatchT], stream: _ObservedStream[BatchT]
) -> Comparison[BatchT]:
    return Comparison(stream.kept, sum(engine.adapter.samples(batch) for batch in stream.kept))


def _measure(
    engine: CheckedEngine[ModelT, BatchT], stream: Iterable[BatchT], options: RecalibrateOptions
) -> Mapping[LayerName, LayerUpdate]:
    layers = {info.name: info for info in engine.layers if info.name in engine.selected}
    if options.method == "batch":
        accumulators = TrainAccumulators(layers, options.estimator, options.variance)
        engine.train_pass(stream, accumulators.add)
        return accumulators.updates()
    with engine.frontier(stream) as frontier:
        return commit_layers(frontier, layers, options.estimator)


def _report(  # noqa: PLR0917 - one value of each step of the run
    engine: CheckedEngine[ModelT, BatchT],
    options: RecalibrateOptions,
    stream: _ObservedStream[BatchT],
    updates: Mapping[LayerName, LayerUpdate],
    notes: EngineNotes,
    digests: Digests,
    started: float,
) -> Report:
    layers = _layers(engine, updates, notes)
    autocorrelation = stream.series.correlation()
    return Report(
        bnrecal=__version__,
        engine=engine.name,
        method=options.method,
        estimator=options.estimator.to_json(),
        layers_selected=None if options.layers is None else tuple(options.layers),
        source_sha256=digests.source,
        stream=StreamReport(
            batches=stream.batches, samples=stream.samples, correlation=autocorrelation
        ),
        layers=layers,
        frozen=frozen_report(digests.before(), digests.after()),
        timings={"recalibrate": time.perf_counter() - started},
        input_check=stream.input_check,
        warnings=(
            *_input_warnings(stream.input_check),
            *warnings_of(layers, stream.samples, autocorrelation),
            *notes.warnings,
        ),
    )


def _layers(
    engine: CheckedEngine[ModelT, BatchT],
    updates: Mapping[LayerName, LayerUpdate],
    notes: EngineNotes,
) -> tuple[LayerReport, ...]:
    return tuple(
        replace(report, residual_mean=residual.mean, residual_var=residual.var)
        if (residual := notes.residuals.get(report.name))
        else report
        for report in layer_reports(notes.layers, engine.selected, updates)
    )


@dataclass(slots=True)
class _ObservedStream(Generic[BatchT]):
    """Counts a stream, keeps its first samples, and rejects an empty one.

    Attributes:
        source: the stream, read once.
        adapter: how to handle one batch.
        check: called once, with the first samples, before the last of them is passed on.
        batches, samples: how many have been read.
        kept: copies of the first samples.
        series: features of every sample, in order.
        input_check: what `check` returned.
    """

    source: Iterator[BatchT]
    adapter: BatchAdapter[BatchT]
    check: Callable[[Sequence[BatchT]], InputCheck | None]
    batches: int = 0
    samples: int = 0
    kept: list[BatchT] = field(default_factory=list)
    series: SampleSeries = field(default_factory=SampleSeries)
    input_check: InputCheck | None = None

    def __iter__(self) -> Iterator[BatchT]:
        for batch in self.source:
            if features := self.adapter.features(batch):
                self.series.add(sample_features(features))
            room = COMPARED_SAMPLES - self.samples
            if room > 0:
                self.kept.append(self.adapter.head(batch, room))
            self.batches += 1
            self.samples += self.adapter.samples(batch)
            if room > 0 and self.samples >= COMPARED_SAMPLES:
                self.input_check = self.check(self.kept)
            yield batch
        if self.batches == 0:
            raise StreamEmptyError("the stream holds no batch, so there is nothing to measure")
        if self.samples < COMPARED_SAMPLES:
            self.input_check = self.check(self.kept)
