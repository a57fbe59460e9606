"""Describe, check and recalibrate a model, with the engine that fits it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np

from bn_ops.core.estimators import Estimator, as_estimator
from bn_ops.core.options import RecalibrateOptions, progress_callback
from bn_ops.engines import open_engine
from bn_ops.engines.onnx.describe import describe_prepared, require_layers
from bn_ops.engines.onnx.network_start import OnnxStart
from bn_ops.engines.onnx.prepare import prepare
from bn_ops.errors import (
    EngineError,
    ModelWithoutBatchNormError,
    OptionError,
    StreamEmptyError,
)
from bn_ops.input_check.judging import (
    MAX_SAMPLES,
    check_start,
    measure_images,
    require_plausible,
)
from bn_ops.input_check.network_start import NetworkStart
from bn_ops.input_check.ranking import planes_of, scored
from bn_ops.input_check.result import InputCheck, PreprocessingScore
from bn_ops.model_sources import as_onnx, is_torch
from bn_ops.onnx_files.load import load_model
from bn_ops.onnx_files.session import use_providers
from bn_ops.pipeline import run

if TYPE_CHECKING:
    import onnx
    from torch import nn
    from torch.export import ExportedProgram

    from bn_ops.core.batches import Select
    from bn_ops.core.layers import LayerInfo, ModelInfo
    from bn_ops.core.options import Budget, LayerCallback, Metric, ProgressCallback
    from bn_ops.core.train_accumulator import Variance
    from bn_ops.onnx_files.session import Provider
    from bn_ops.result import Recalibration

    Call: TypeAlias = Callable[[nn.Module, Any], object]
    OnnxSource: TypeAlias = onnx.ModelProto | ExportedProgram | bytes | str | Path

__all__ = [
    "check_input",
    "describe",
    "inspect",
    "rank_preprocessings",
    "recalibrate",
    "recalibrate_with",
]


def describe(model: OnnxSource) -> ModelInfo:
    """Return inputs, outputs, layers and warnings of an ONNX model.

    Args:
        model: an `onnx.ModelProto`, serialized bytes, a path to an `.onnx` or `.pt2` file, or a
            `torch.export.ExportedProgram`. Modified: no.

    Raises:
        ModelInvalidError: not an ONNX model.
        ModelWithoutBatchNormError: the model has no BatchNorm layer.
    """
    return describe_prepared(prepare(load_model(as_onnx(model))))


def inspect(model: nn.Module | OnnxSource) -> list[LayerInfo]:
    """Return the BatchNorm layers of a model, each with the reason if it cannot be recalibrated.

    Args:
        model: an `nn.Module`, or a model as for `describe`. Modified: no.

    Raises:
        ModelError: as `describe`.
    """
    if is_torch(model):
        from bn_ops.engines.torch import describe_module  # noqa: PLC0415 - torch is optional

        return list(describe_module(model))  # type: ignore[arg-type]  # is_torch
    return list(describe(model).layers)  # type: ignore[arg-type]  # not is_torch


@overload  # first: without protobuf's types a ModelProto matches nn.Module too
def recalibrate(
    model: OnnxSource,
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
    compare: bool = False,
    evaluate: Iterable[Any] | None = None,
    metric: Metric | None = None,
    max_drop: float = 0.0,
    allow_mismatch: bool = False,
    source_batches: Iterable[Any] | None = None,
    on_layer: LayerCallback | None = None,
    max_samples: int | None = None,
    seed: int = 0,
) -> Recalibration[onnx.ModelProto]: ...


@overload
def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    method: str = "exact",
    estimator: Estimator | str | None = None,
    layers: Sequence[str] | None = None,
    engine: str = "auto",
    budget: Budget | None = None,
    progress: ProgressCallback | bool | None = None,
    select: Select | None = None,
    variance: Variance = "population",
    compare: bool = False,
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
) -> Recalibration[nn.Module]: ...


def recalibrate(
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
    compare: bool = False,
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
) -> Recalibration[nn.Module] | Recalibration[onnx.ModelProto]:
    """Recompute the running statistics of a model's BatchNorm layers, and nothing else.

    With `method="exact"` each layer's new statistics are the pooled moments, over all samples and
    positions of the stream, of the input that it receives in eval mode when every layer before it
    is already recalibrated. They depend neither on the batch size nor on the order of samples, and
    cost one forward pass.

    Args:
        model: an `nn.Module` (modified in place, only if everything succeeds; any device), a
            `torch.export.ExportedProgram` (exported to ONNX first), an `onnx.ModelProto`,
            serialized bytes, or a path to an `.onnx` or `.pt2` file (never modified; the result
            holds a new model).
        batches: iterable of arrays, tensors, tuples, or mappings from input name to array; the
            first axis counts samples. Also a `numpy.memmap` or a Hugging Face `datasets.Dataset`
            of samples, read in batches of 32, or a `tf.data.Dataset` of batches. Read once.
        method: `exact`, or `batch` for one train-mode pass, as most tools do.
        estimator: how source statistics and moments become new statistics; a value such as
            `Shrink()` or a string such as `"shrink"` or `"prior:64"`. Default `Replace()`;
            `Auto()` chooses by the predictions, and may keep the source statistics.
        layers: glob patterns of layers to include, `"!pattern"` to exclude; None for all.
        engine: `auto` takes torch for modules and onnxruntime for ONNX.
        budget: memory and disk for waiting tensors; default `Budget()`. For a module on another
            device than the CPU there is no limit by default, and a given budget ends a run that
            needs more memory, since only CPU tensors can be spilled to files.
        progress: called between steps; raise `CancelledError` in it to stop. True prints to
            standard error.
        select: applied to each item of the stream first, for `(input, label)` pairs.
        threads: threads within an operator (ONNX only); None for every core.
        providers: execution providers of onnxruntime in order of preference (ONNX only), such as
            `["CUDAExecutionProvider"]`, or pairs of name and options; None for the CPU's.
        variance: how `method="batch"` combines batches into one variance: `population`, `unbiased`
            or `mean_of_batches` (see `bn_ops.core.train_accumulator.Variance`).
        compare: whether to run up to 64 samples through the network before and after, so that the
            report holds activations by depth, the change in a classification head's predictions
            and a verdict. The samples are those with the smallest sha256 of their bytes, so they
            depend neither on the batches nor on the order of the stream.
        evaluate: `(inputs, labels)` pairs, labels as integers, one class per sample (or per
            position); the report then holds the error before and after. Read first and kept until
            the end; `select` does not apply. Labels never enter the statistics; they decide the
            verdict, and with `Auto` which of the source, its own choice, `Shrink` and `Replace` is
            taken.
        metric: `metric(outputs, labels)` scores labeled samples instead of the error; the higher
            the better. `outputs` is the model's output as an array, or a mapping from name to
            array for several outputs; `labels` are those of `evaluate=`, which may then be of any
            kind, one entry per sample. It is also called on resamples of the samples.
        max_drop: the drop of the accuracy or the metric that the verdict tolerates.
        allow_mismatch: whether to continue where the first samples cannot be what the model was
            trained on; the findings are then warnings of the report. See `bn_ops.check_input`.
        source_batches: unlabeled samples of the domain that the model was trained on, for an ONNX
            model without BatchNorm layers, or with some: they are inserted first. See
            `bn_ops.insert_batchnorm`; `select` applies.
        on_layer: called with the name and the drift of each layer as soon as its statistics have
            been measured. An estimator that chooses afterwards, such as `Auto()`, may store others.
        max_samples: number of samples to choose of the stream; None for all. Only these run through
            the network. The choice, the statistics and their bytes depend on the content of the
            samples and on `seed`, not on the order of the stream nor on its batches. The stream is
            read completely first; the chosen samples wait in memory or in files of the budget.
        seed: seed of the choice, from 0 to 2^53 - 1.
        call: `call(module, batch)` runs the module on one batch (torch only); batches are then
            passed to it unchanged, neither converted nor moved to the module's device.
        adopt_untracked: whether layers with `track_running_stats=False` receive running statistics
            (torch only).
        shared_passes: maximum number of passes over the data where a layer is called several times
            (torch only).
        shared_tolerance: movement, in units of σ, below which such layers count as converged
            (torch only).

    Raises:
        InputMismatchError: the data cannot be what the model was trained on.
        BatchError: a batch does not fit or holds NaN or Inf; names batch and input.
        StreamEmptyError: the stream holds no batch.
        ModelError: the model cannot be recalibrated.
        LayerNotFiniteError: NaN or Inf arises inside the network.
        EngineError: the runtime or the module's forward failed.
        SpillLimitError: the budget is too small.
        OptionError: an option has no meaning, or does not apply to the model.
    """
    options = RecalibrateOptions(
        method=method,
        estimator=as_estimator(estimator),
        layers=layers,
        engine=engine,
        budget=budget,
        progress=progress_callback(progress),
        select=select,
        threads=threads,
        providers=providers,
        variance=variance,
        compare=compare,
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
    return recalibrate_with(model, batches, options)


def recalibrate_with(
    model: object, batches: Iterable[Any], options: RecalibrateOptions
) -> Recalibration[Any]:
    """Recalibrate with options as one value; see `recalibrate`."""
    started = time.perf_counter()
    if is_torch(model):
        if options.source_batches is not None:
            raise OptionError("source_batches= needs an ONNX model: bn_ops.export makes one")
        if options.engine == "onnx":
            raise OptionError('engine="onnx" needs an ONNX model: bn_ops.export makes one')
        if options.providers is not None:
            raise OptionError("providers= needs an ONNX model; a module runs on its own device")
        return run(open_engine("torch", model, batches, options), options, started=started)
    if options.engine == "torch":
        raise OptionError('engine="torch" needs an nn.Module')
    with use_providers(options.providers):
        return _recalibrate_onnx(load_model(as_onnx(model)), batches, options, started)


def _recalibrate_onnx(
    source: onnx.ModelProto, batches: Iterable[Any], options: RecalibrateOptions, started: float
) -> Recalibration[Any]:
    if options.source_batches is not None:
        from bn_ops.batchnorm_insertion import insert_batchnorm  # noqa: PLC0415 - loads folding

        source = insert_batchnorm(
            source,
            options.source_batches,
            select=options.select,
            threads=options.threads,
            progress=options.progress,
        ).model
    return run(open_engine("onnx", source, batches, options), options, started=started)


def check_input(
    model: Any,
    batches: Iterable[Any],
    *,
    select: Select | None = None,
    call: Callable[[Any, Any], object] | None = None,
    threads: int | None = None,
    allow_mismatch: bool = False,
) -> InputCheck:
    """Check whether data can be what a model was trained on, before anything else is done with it.

    The inputs of the first BatchNorm layers are compared with the statistics stored there, and
    images are examined for the usual faults. `bn_ops.input_check.judging` has the thresholds.

    Args:
        model: as for `bn_ops.recalibrate`. Not changed.
        batches: as for `bn_ops.recalibrate`; at most 64 samples are read.
        select: applied to each item of the stream first.
        call: runs an `nn.Module` in any other way; then only moments are compared.
        threads: threads within an operator (ONNX); None means every core.
        allow_mismatch: return the findings instead of raising.

    Raises:
        InputMismatchError: the data cannot be what the model was trained on.
        StreamEmptyError: there is no sample.
        BatchError: a batch does not fit the model, or holds NaN or Inf.
        ModelError: the model has no BatchNorm layer with stored statistics.
    """
    start = _start(model, call, threads)
    found = start.batches(batches, select=select, samples=MAX_SAMPLES)
    if not found:
        raise StreamEmptyError("the stream holds no sample to check")
    check = check_start(start, found)
    if not allow_mismatch:
        require_plausible(check)
    return check


def rank_preprocessings(
    model: Any, images: Any, *, threads: int | None = None
) -> tuple[PreprocessingScore, ...]:
    """Rank the common preprocessings by how close they bring a model's first layers to training.

    Args:
        model: an ONNX model or an `nn.Module` with one image input. Not changed.
        images: RGB or gray images as uint8, resized to what the model takes: an array of shape
            (n, H, W, 3), (n, H, W) or (n, H, W, 1), or a sequence of such images. 16 to 64 of them
            are enough.
        threads: threads within an operator (ONNX); None means every core.

    Returns:
        The closest first. A distance below 0.5 σ is usual for the right one.

    Raises:
        OptionError: `images` is not such an array, or the model does not take images.
        ModelError: the model has no BatchNorm layer with stored statistics.
    """
    pixels = planes_of(images)
    start = _start(model, None, threads)
    name, dtype, channels_last = "input", np.dtype(np.float32), False
    if isinstance(start, OnnxStart):
        if len(start.inputs) != 1:
            raise OptionError("rank_preprocessings needs a model with one input")
        info = start.inputs[0]
        name = info.name
        dtype = np.dtype("float32" if info.dtype == "bfloat16" else info.dtype)
        channels_last = bool(info.shape and info.shape[-1] == pixels.shape[1])
    measure = measure_images(start, name, dtype, channels_last=channels_last)
    try:
        return scored(pixels.astype(np.float32), measure)
    except EngineError as error:
        raise OptionError(
            f"the model does not take images of shape {list(pixels.shape[1:])} (C, H, W): "
            f"{error.message}"
        ) from error


def _start(
    model: Any, call: Callable[[Any, Any], object] | None, threads: int | None
) -> NetworkStart:
    if is_torch(model):
        from bn_ops.engines.torch.network_start import TorchStart  # noqa: PLC0415 - torch is optional

        return TorchStart(model, call)
    if call is not None:
        raise OptionError("call= is for an nn.Module")
    prepared = prepare(load_model(as_onnx(model)))
    require_layers(prepared)
    if not prepared.eligible:
        raise ModelWithoutBatchNormError(
            f"none of the model's BatchNorm layers has usable statistics; "
            f"{prepared.layers[0].name!r}: {prepared.layers[0].reason}"
        )
    return OnnxStart(prepared, threads=threads)
