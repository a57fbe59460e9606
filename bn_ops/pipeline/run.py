"""The run: from an opened engine to new statistics and a report, the same for every engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from bn_ops.auto.run_verdict import verdict_on_choice_of_run, verdict_on_result
from bn_ops.auto.selection import Selection, Selector
from bn_ops.core.engine import Digests, EngineNotes
from bn_ops.core.estimators import Auto
from bn_ops.core.frontier import LayerUpdate, OnUpdate, commit_layers
from bn_ops.core.layers import LayerInfo
from bn_ops.core.options import Budget, LayerDrift, Progress, RecalibrateOptions
from bn_ops.core.statistics import LayerName
from bn_ops.core.train_accumulator import TrainAccumulators
from bn_ops.core.version import __version__
from bn_ops.diagnostics.before_after import compared
from bn_ops.diagnostics.build_report import drift, frozen_report, layer_reports, warnings_of
from bn_ops.diagnostics.forward_pass import ForwardPass, shared_class_output
from bn_ops.diagnostics.labeled import LabeledSamples
from bn_ops.diagnostics.labeled_error import Evaluation
from bn_ops.diagnostics.metric import MetricEvaluation
from bn_ops.diagnostics.probe import Probe, observed_probe, replayed_probe
from bn_ops.diagnostics.report import Candidate, LayerReport, Origin, Report, StreamReport
from bn_ops.input_check.engine import CheckedEngine
from bn_ops.input_check.result import InputCheck
from bn_ops.pipeline.assembled import Measured, measure_shards
from bn_ops.pipeline.stream import ObservedStream, check_first_samples
from bn_ops.pipeline.subsample import ChosenSamples
from bn_ops.result import Recalibration

__all__ = ["run"]

# The key of the result of the caller's own estimator on labeled samples.
_RESULT = "result"

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
    labeled = _labeled(engine, options)
    with engine.digests() as digests:
        if labeled is not None:
            labeled.score(engine.forward, Candidate.SOURCE)
        measured = _measured(engine, options)
        stream, updates, after = measured.stream, measured.updates, measured.after
        probe = stream.probe
        notes = engine.notes(updates)
        before = None if probe is None else _observe(engine, probe, layers=options.compare)
        selection = None
        if probe is not None and before is not None and isinstance(options.estimator, Auto):
            selector = Selector(
                engine, probe, updates, after, layers=options.compare, progress=_choosing(options)
            )
            selection = _select(selector, options.estimator, before, stream.samples, labeled)
            updates = selection.updates
            after = before if selection.candidate is Candidate.SOURCE else selection.observed
        statistics = {name: update.statistics for name, update in updates.items()}
        restore = engine.store(statistics)
        try:
            report = _report(engine, options, stream, updates, notes, digests, started, selection)
            report = _with_labels(report, engine, labeled, selection)
            if probe is not None and before is not None:
                report = _with_verdict(
                    report, engine, options, probe, before, after, updates, notes, selection
                )
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


def _probe(
    engine: CheckedEngine[ModelT, BatchT], options: RecalibrateOptions
) -> Probe[BatchT] | None:
    """Return an empty probe where predictions will be compared."""
    compares = options.compare or isinstance(options.estimator, Auto)
    return Probe(engine.adapter) if compares else None


def _chosen(
    engine: CheckedEngine[ModelT, BatchT], options: RecalibrateOptions
) -> ChosenSamples[BatchT] | None:
    """Return the choice of samples, where the caller wants one."""
    if options.max_samples is None:
        return None
    return ChosenSamples(
        engine.stream,
        engine.adapter,
        max_samples=options.max_samples,
        seed=options.seed,
        budget=options.budget or Budget(),
        progress=options.progress,
    )


def _observe(
    engine: CheckedEngine[ModelT, BatchT], probe: Probe[BatchT], *, layers: bool
) -> ForwardPass:
    """Run the probe with the statistics that the model holds; see `observed_probe`."""
    return observed_probe(engine.forward, probe, layers=layers)


def _choosing(options: RecalibrateOptions) -> Callable[[int], None]:
    return lambda done: options.progress(Progress(phase="choosing", done=done, total=None))


def _select(
    selector: Selector[ModelT, BatchT],
    estimator: Auto,
    before: ForwardPass,
    samples: int,
    labeled: LabeledSamples[BatchT] | None,
) -> Selection:
    found = selector.select(before, samples=samples, varied=estimator.varied)
    return found if labeled is None else selector.select_by_labels(found, labeled)


def _with_labels(
    report: Report,
    engine: CheckedEngine[ModelT, BatchT],
    labeled: LabeledSamples[BatchT] | None,
    selection: Selection | None,
) -> Report:
    """Add the comparison on labeled samples; the model holds the new statistics."""
    if labeled is None:
        return report
    if selection is not None:
        return labeled.added_to(report, Candidate.SOURCE, selection.candidate)
    labeled.score(engine.forward, _RESULT)
    return labeled.added_to(report, Candidate.SOURCE, _RESULT)


def _with_verdict(  # noqa: PLR0917 - one value of each step of the run
    report: Report,
    engine: CheckedEngine[ModelT, BatchT],
    options: RecalibrateOptions,
    probe: Probe[BatchT],
    before: ForwardPass,
    after: ForwardPass | None,
    updates: Mapping[LayerName, LayerUpdate],
    notes: EngineNotes,
    selection: Selection | None,
) -> Report:
    """Add the comparison before and after, and the verdict.

    The model holds the new statistics. It is only run where the run that measured them did not
    observe the probe (`after` is None).
    """
    samples = probe.samples
    if not options.compare:
        after = None
    elif after is None:
        after = _observe(engine, probe, layers=True)
    if after is not None:
        report = compared(
            report, before, after, samples=samples, infos=notes.layers, updates=updates
        )
    if selection is not None:
        verdict = verdict_on_choice_of_run(report, selection, max_drop=options.max_drop)
    else:
        outputs = None if after is None else shared_class_output(before, after, samples=samples)
        verdict = verdict_on_result(report, outputs, max_drop=options.max_drop)
    return replace(report, verdict=verdict)


def _input_warnings(check: InputCheck | None) -> tuple[str, ...]:
    if check is None:
        return ()
    return tuple(f"{finding.message}; {finding.suggestion}" for finding in check.findings)


def _labeled(
    engine: CheckedEngine[ModelT, BatchT], options: RecalibrateOptions
) -> LabeledSamples[BatchT] | None:
    adapter = engine.adapter
    if options.evaluate is None:
        return None
    if options.metric is None:
        return Evaluation.of(options.evaluate, adapter.read)
    return MetricEvaluation.of(options.evaluate, adapter.read, adapter.samples, options.metric)


def _measured(
    engine: CheckedEngine[ModelT, BatchT], options: RecalibrateOptions
) -> Measured[BatchT]:
    """Read the stream and measure every layer, here or in shards elsewhere."""
    layers = {info.name: info for info in engine.layers if info.name in engine.selected}
    on_update = _on_update(options, layers)
    if options.shards is not None:
        return measure_shards(engine, options, options.shards, on_update)
    chosen = _chosen(engine, options)
    stream = ObservedStream(
        engine.stream if chosen is None else chosen,
        engine.adapter,
        partial(check_first_samples, engine, options),
        _probe(engine, options),
        chosen=chosen,
    )
    updates, after = _measure(engine, stream, options, layers, on_update)
    return Measured(stream=stream, updates=updates, after=after)


def _measure(
    engine: CheckedEngine[ModelT, BatchT],
    stream: ObservedStream[BatchT],
    options: RecalibrateOptions,
    layers: Mapping[LayerName, LayerInfo],
    on_update: OnUpdate | None,
) -> tuple[Mapping[LayerName, LayerUpdate], ForwardPass | None]:
    """Return the updates, and the probe under their statistics where the engine observed it."""
    probe = stream.probe
    if options.method == "batch":
        accumulators = TrainAccumulators(layers, options.estimator, options.variance)
        engine.train_pass(stream, accumulators.add)
        measured = accumulators.updates()
        if on_update is not None:
            for name, update in measured.items():
                on_update(name, update)
        return measured, None
    with engine.frontier(stream, observed=None if probe is None else probe.positions) as frontier:
        updates = commit_layers(frontier, layers, options.estimator, on_update=on_update)
        if probe is None:
            return updates, None
        return updates, replayed_probe(frontier, probe, probe.positions(), layers=options.compare)


def _on_update(
    options: RecalibrateOptions, layers: Mapping[LayerName, LayerInfo]
) -> OnUpdate | None:
    """Return a callback that reports each layer to the caller; None without `on_layer=`."""
    on_layer = options.on_layer
    if on_layer is None:
        return None

    def report(name: LayerName, update: LayerUpdate) -> None:
        moved = drift(update.source, update.statistics, layers[name].eps).wasserstein
        on_layer(LayerDrift(name=name, drift=moved, total=len(layers)))

    return report


def _report(  # noqa: PLR0917 - one value of each step of the run
    engine: CheckedEngine[ModelT, BatchT],
    options: RecalibrateOptions,
    stream: ObservedStream[BatchT],
    updates: Mapping[LayerName, LayerUpdate],
    notes: EngineNotes,
    digests: Digests,
    started: float,
    selection: Selection | None,
) -> Report:
    layers = _layers(engine, updates, notes, selection)
    autocorrelation = stream.series.correlation()
    return Report(
        bnrecal=__version__,
        engine=engine.name,
        method=options.method,
        estimator=options.estimator.to_json(),
        layers_selected=None if options.layers is None else tuple(options.layers),
        source_sha256=digests.source,
        stream=StreamReport(
            batches=stream.batches,
            samples=stream.samples,
            correlation=autocorrelation,
            sha256=None if stream.probe is None else stream.probe.stream_sha256,
            subsample=stream.subsample,
        ),
        layers=layers,
        frozen=frozen_report(digests.before(), digests.after()),
        timings={"recalibrate": time.perf_counter() - started},
        choice=None if selection is None else selection.choice,
        input_check=stream.input_check,
        origin=Origin(created=_utc_now()),
        warnings=(
            *_input_warnings(stream.input_check),
            *warnings_of(layers, stream.samples, autocorrelation),
            *notes.warnings,
        ),
    )


def _utc_now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _layers(
    engine: CheckedEngine[ModelT, BatchT],
    updates: Mapping[LayerName, LayerUpdate],
    notes: EngineNotes,
    selection: Selection | None,
) -> tuple[LayerReport, ...]:
    kept = selection is not None and selection.candidate is Candidate.SOURCE
    reports = layer_reports(notes.layers, engine.selected, updates, source_kept=kept)
    return tuple(
        replace(report, residual_mean=residual.mean, residual_var=residual.var)
        if (residual := notes.residuals.get(report.name))
        else report
        for report in reports
    )
