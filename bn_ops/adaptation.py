"""Recalibrate, export, fold and verify a model as one transaction, and judge a result by labels."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bn_ops.api import recalibrate_with
from bn_ops.auto.run_verdict import verdict_on_labels
from bn_ops.core.batches import named_batches
from bn_ops.core.estimators import Auto, Estimator, Replace, as_estimator
from bn_ops.core.options import Progress, RecalibrateOptions, progress_callback
from bn_ops.core.signature import Batch
from bn_ops.diagnostics.labeled import LabeledSamples
from bn_ops.diagnostics.labeled_error import Evaluation
from bn_ops.diagnostics.metric import MetricEvaluation
from bn_ops.diagnostics.report import DeployedForm, Report
from bn_ops.engines.onnx.forward import OnnxForward
from bn_ops.engines.onnx.prepare import prepare
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.errors import OptionError
from bn_ops.model_sources import as_onnx, is_torch
from bn_ops.onnx_files.deployment.request import Deployment
from bn_ops.onnx_files.load import load_model
from bn_ops.onnx_files.session import use_providers
from bn_ops.onnx_files.traversal import standard_opset
from bn_ops.result import Artifact

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from bn_ops.api import Call, OnnxSource
    from bn_ops.core.batches import Select
    from bn_ops.core.options import Budget, LayerCallback, Metric, ProgressCallback
    from bn_ops.core.signature import Batch, TensorInfo
    from bn_ops.core.train_accumulator import Variance
    from bn_ops.diagnostics.report import Report
    from bn_ops.folding import Folded
    from bn_ops.onnx_files.session import Provider
    from bn_ops.result import Recalibration

__all__ = ["adapt", "compare_on_labels"]

# Samples of the stream on which the folded model is compared in its own element type. A fault of a
# fold is the same for every sample, and the comparison in float64 finds it; these show the
# rounding on data.
_VERIFIED_SAMPLES = 4
_SOURCE, _RESULT = "source", "result"


def adapt(
    model: nn.Module | OnnxSource,
    batches: Iterable[Any],
    *,
    method: str = "exact",
    estimator: Estimator | str | None = None,
    layers: Sequence[str] | None = None,
    engine: str = "auto",
    budget: Budget | None = None,
    progress: ProgressCallback | bool | None = None,
    select: Select | None = None,
    threads: int | None = None,
    providers: Sequence[Provider] | None = None,
    variance: Variance = "population",
    evaluate: Iterable[Any] | None = None,
    metric: Metric | None = None,
    max_drop: float = 0.0,
    allow_mismatch: bool = False,
    source_batches: Iterable[Any] | None = None,
    on_layer: LayerCallback | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    call: Call | None = None,
    adopt_untracked: bool = False,
    shared_passes: int = 20,
    shared_tolerance: float = 1e-5,
    example_inputs: Any = None,
    opset: int | None = None,
    target: str | None = None,
) -> Artifact:
    """Recalibrate, fold and verify a model in one transaction.

    Arguments and errors are those of `bn_ops.recalibrate` with `compare=True`, and in addition:

    Args:
        model: as for `recalibrate`.
        batches: as for `recalibrate`.
        method: as for `recalibrate`.
        estimator: as for `recalibrate`, but the default is `Auto()`, or `Replace()` with
            `method="batch"`.
        layers: as for `recalibrate`.
        engine: as for `recalibrate`.
        budget: as for `recalibrate`.
        progress: as for `recalibrate`.
        select: as for `recalibrate`.
        threads: as for `recalibrate`; for an `nn.Module` it applies to folding and verification.
        providers: as for `recalibrate`, and for folding and verification.
        variance: as for `recalibrate`.
        evaluate: as for `recalibrate`.
        metric: as for `recalibrate`.
        max_drop: as for `recalibrate`.
        allow_mismatch: as for `recalibrate`.
        source_batches: as for `recalibrate`.
        on_layer: as for `recalibrate`.
        max_samples: as for `recalibrate`.
        seed: as for `recalibrate`.
        call: as for `recalibrate`.
        adopt_untracked: as for `recalibrate`.
        shared_passes: as for `recalibrate`.
        shared_tolerance: as for `recalibrate`.
        example_inputs: inputs to export an `nn.Module` with; default the first samples of the
            stream.
        opset: version of ONNX's default operator set of both models; default the source's (20 for
            an `nn.Module`), or the nearest that the target supports. The converted model is
            compared with the original, and the folded model is verified after the conversion.
        target: where the folded model is deployed: `onnxruntime`, `tensorrt`, `openvino`, `rknn`
            or `coreml`. A model with an operator that the target lacks is refused, an ONNX model
            before the stream is read. `bn_ops.onnx_files.deployment.TARGETS` has the tables.

    Returns:
        The artifact. An `nn.Module` then holds the new statistics; if anything fails, it is
        unchanged, bit for bit.

    Raises:
        ParityError: no choice of layers to fold gives a model that computes the same.
        ExportError: the `nn.Module` cannot be exported.
        TargetError: the opset or the target lacks an operator of the model.
    """
    deployment = Deployment(opset=opset, target=target)
    options = RecalibrateOptions(
        method=method,
        estimator=as_estimator(estimator, default=Auto() if method == "exact" else Replace()),
        layers=layers,
        engine=engine,
        budget=budget,
        progress=progress_callback(progress),
        select=select,
        threads=None if is_torch(model) else threads,
        providers=None if is_torch(model) else providers,
        variance=variance,
        compare=True,
        evaluate=evaluate,
        metric=metric,
        max_drop=max_drop,
        allow_mismatch=allow_mismatch,
        source_batches=source_batches,
        on_layer=on_layer,
        max_samples=max_samples,
        seed=seed,
        call=call,
        adopt_untracked=adopt_untracked,
        shared_passes=shared_passes,
        shared_tolerance=shared_tolerance,
    )
    return adapt_with(
        model, batches, options, deployment, example_inputs=example_inputs, threads=threads
    )


def adapt_with(
    model: nn.Module | OnnxSource,
    batches: Iterable[Any],
    options: RecalibrateOptions,
    deployment: Deployment,
    *,
    example_inputs: Any = None,
    threads: int | None = None,
) -> Artifact:
    """Adapt with options as values; see `adapt`."""
    source_path = _path_of(model)
    if not (deployment.is_default or is_torch(model)):
        model = load_model(as_onnx(model))
        deployment.check_source(model)
    done = recalibrate_with(model, batches, options)
    try:
        with use_providers(options.providers):
            source, samples = _as_onnx(model, done, example_inputs)
            unfolded = deployment.converted(source, samples, threads=threads)
            form = DeployedForm(
                opset=standard_opset(unfolded),
                source_opset=standard_opset(source),
                target=deployment.target,
            )
            done = replace(done, report=replace(done.report, deployed=form))
            artifact = _fold(unfolded, samples, done, options.progress, threads)
            deployment.check(artifact.model)
    except BaseException:
        done.undo()
        raise
    if source_path is None:
        return artifact
    return replace(
        artifact,
        source_path=source_path,
        report=artifact.report.described(model_name=source_path.name),
    )


def _path_of(model: object) -> Path | None:
    return Path(model).absolute() if isinstance(model, str | Path) else None


def _fold(
    unfolded: onnx.ModelProto,
    samples: Sequence[Batch],
    done: Recalibration[Any],
    progress: ProgressCallback,
    threads: int | None,
) -> Artifact:
    from bn_ops.verification import fold_verified  # noqa: PLC0415 - loads onnxruntime

    started = time.perf_counter()
    progress(Progress(phase="folding", done=0, total=1))
    verified = _first_samples(samples, _VERIFIED_SAMPLES)
    folded, parity = fold_verified(unfolded, verified, threads=threads)
    progress(Progress(phase="verifying", done=1, total=1))
    report = replace(
        done.report,
        fold=folded.layers,
        parity=parity,
        timings={**done.report.timings, "fold and verify": time.perf_counter() - started},
        warnings=(*done.report.warnings, *_fold_warnings(folded)),
    )
    return Artifact(
        model=_with_metadata(folded.model, report),
        unfolded=_with_metadata(unfolded, report),
        statistics=done.statistics,
        report=report,
    )


def _first_samples(batches: Iterable[Batch], samples: int) -> Iterator[Batch]:
    for batch in batches:
        if samples > 0:
            yield {name: array[:samples] for name, array in batch.items()}
        samples -= len(next(iter(batch.values())))


def _as_onnx(
    model: Any, done: Recalibration[Any], example: Any
) -> tuple[onnx.ModelProto, list[Batch]]:
    """Return the recalibrated model in ONNX, and samples with its inputs."""
    if not is_torch(model):
        return done.model, list(done.calibration)
    from bn_ops.exporting import export  # noqa: PLC0415 - torch is optional

    if example is None and not done.calibration:
        raise OptionError("with call= the module's arguments are not known: pass example_inputs=")
    exported = export(model, dict(done.calibration[0]) if example is None else example)
    # The stream may hold more, such as labels; see `bn_ops.exporting`.
    names = {value.name for value in exported.graph.input}
    samples: list[Batch] = [
        {name: array for name, array in batch.items() if name in names}
        for batch in done.calibration
    ]
    return exported, samples


def _fold_warnings(folded: Folded) -> tuple[str, ...]:
    kept = [layer for layer in folded.layers if layer.status != "folded"]
    if not kept:
        return ()
    share = f"{len(kept)} of {len(folded.layers)} layers stay BatchNormalization nodes"
    return (f"{share}; {kept[0].name!r}: {kept[0].reason}",)


def _with_metadata(model: onnx.ModelProto, report: Report) -> onnx.ModelProto:
    """Record in a model's metadata how it was made."""
    entries = {
        "bnrecal.version": report.bnrecal,
        "bnrecal.source_sha256": report.source_sha256 or "",
        "bnrecal.method": report.method,
        "bnrecal.estimator": str(report.estimator["name"]),
        "bnrecal.samples": str(report.stream.samples),
    }
    kept = [entry for entry in model.metadata_props if entry.key not in entries]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    return model


def compare_on_labels(
    source: OnnxSource,
    result: OnnxSource,
    report: Report,
    pairs: Iterable[Any],
    *,
    metric: Metric | None = None,
    max_drop: float = 0.0,
    threads: int | None = None,
) -> Report:
    """Return a run's report with its two models compared on labeled samples, which decide.

    A run with `evaluate=` compares its candidates itself. This is for a result that came from
    elsewhere, such as a server that never sees the labels.

    Args:
        source: the source model.
        result: the recalibrated model, folded or not.
        report: the report of the run.
        pairs: `(inputs, labels)` pairs, as `evaluate=` of `bn_ops.recalibrate`.
        metric: as for `bn_ops.recalibrate`.
        max_drop: as for `bn_ops.recalibrate`.
        threads: threads within an operator; None for every core.

    Returns:
        The report with `evaluation` or `metric`, and the verdict that follows from it.

    Raises:
        OptionError: the labels do not fit the samples or the outputs.
        ModelError: a model cannot be run.
    """
    before, after = (prepare(load_model(as_onnx(model))) for model in (source, result))
    labeled = _labeled(pairs, model_inputs(before.model), metric)
    labeled.score(OnnxForward(before, threads=threads), _SOURCE)
    labeled.score(OnnxForward(after, threads=threads), _RESULT)
    compared = labeled.added_to(report, _SOURCE, _RESULT)
    return replace(compared, verdict=verdict_on_labels(compared, max_drop=max_drop))


def _labeled(
    pairs: Iterable[Any], inputs: tuple[TensorInfo, ...], metric: Metric | None
) -> LabeledSamples[Batch]:
    def read(items: Iterable[Any]) -> Iterable[Batch]:
        return named_batches(items, inputs)

    if metric is None:
        return Evaluation.of(pairs, read)
    return MetricEvaluation.of(pairs, read, lambda batch: len(next(iter(batch.values()))), metric)
