"""Recalibrating, inspecting and folding in this process, by bn_ops, which is imported on use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from bnrecal_client._library import Metric, labeled_arrays, library
from bnrecal_client.cli.data.preprocess_files import preset
from bnrecal_client.errors import ModelError
from bnrecal_client.images import Images
from bnrecal_client.models import Progress, ReportDetails
from bnrecal_client.options import Options
from bnrecal_client.progress import ProgressCallback
from bnrecal_client.result import Outcome

__all__ = [
    "FoldedFile",
    "LocalResult",
    "classes_of",
    "fold_file",
    "inputs_of",
    "inspect_file",
    "rank_images",
    "recalibrate_file",
]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class LocalResult(Outcome):
    """A recalibration in this process, whose models may be too large for one bytes object.

    Attributes:
        artifact: the `bn_ops.Artifact`.
    """

    artifact: Any

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the folded model, atomically; `force` as in `Result.save`."""
        if not force:
            self.require_not_source(path)
        self.artifact.save(path, force=True)
        return Path(path)

    def save_unfolded(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the model with its BatchNorm kept, atomically; `force` as in `Result.save`."""
        if not force:
            self.require_not_source(path)
        self.artifact.save_unfolded(path, force=True)
        return Path(path)


def recalibrate_file(
    model: Path,
    batches: Iterable[Any],
    options: Options,
    *,
    notify: ProgressCallback,
    evaluate: Iterable[Any] | None = None,
    metric: Metric | None = None,
    max_drop: float = 0.0,
    source_batches: Iterable[Any] | None = None,
    providers: Sequence[str] | None = None,
    details: Callable[[], ReportDetails] = ReportDetails,
) -> LocalResult:
    """Return the recalibration of a model file.

    Args:
        model: the file.
        batches: the stream.
        options: options of the recalibration.
        notify: called with the progress.
        evaluate: (inputs, labels) pairs; None without labels.
        metric: scores the labeled samples; None for the error.
        max_drop: the drop that the verdict tolerates.
        source_batches: the source stream; None for a model that has BatchNorm layers.
        providers: execution providers of onnxruntime; None for the CPU's.
        details: called after the run; returns what the report names.

    Raises:
        BnrecalError: as a server would report it.
    """
    path = _existing(model)
    with library("the work is done in this process") as bn_ops:
        artifact = bn_ops.adapt(
            path,
            _arrays(bn_ops, batches, options.preprocess),
            source_batches=None
            if source_batches is None
            else _arrays(bn_ops, source_batches, options.preprocess),
            method=options.method,
            estimator=bn_ops.estimator_from_json(options.estimator)
            if isinstance(options.estimator, Mapping)
            else options.estimator,
            layers=None if options.layers is None else list(options.layers),
            progress=lambda step: notify(
                Progress(phase=step.phase, done=step.done, total=step.total)
            ),
            evaluate=None
            if evaluate is None
            else labeled_arrays(bn_ops, evaluate, options.preprocess),
            metric=metric,
            max_drop=max_drop,
            allow_mismatch=options.allow_mismatch,
            opset=options.opset,
            target=options.target,
            max_samples=options.max_samples,
            seed=options.seed,
            providers=providers,
        )
        report = _described(artifact.report, details())
        return LocalResult(
            recalibration_id=None,
            source=path,
            artifact=artifact,
            report=report.to_json(),
            report_html=bn_ops.render_html(report),
            statistics=_named(artifact.statistics),
        )


def _described(report: Any, details: ReportDetails) -> Any:
    """Return a `bn_ops.Report` with the details of the caller."""
    from bn_ops.diagnostics.report import SkippedSample

    return report.described(
        model_name=details.model_name,
        data_name=details.data_name,
        command=details.command,
        skipped_samples=tuple(
            SkippedSample(index=sample.index, name=sample.name, reason=sample.reason)
            for sample in details.skipped_samples
        ),
    )


def _arrays(
    bn_ops: ModuleType, batches: Iterable[Any], form: Mapping[str, object] | None
) -> Iterable[Any]:
    """Return batches as arrays; images are read by the same code as in a server's worker."""
    if form is None:
        return batches
    return _image_arrays(batches, bn_ops.preprocess_from_json(form))


def _image_arrays(batches: Iterable[Images], preprocess: Any) -> Iterator[Any]:
    from bn_ops.preprocess import image_arrays

    for place, batch in enumerate(batches):
        yield from image_arrays(batch.items, preprocess, batch=place)


def rank_images(
    model: Path, images: Iterable[tuple[str, bytes]]
) -> tuple[Sequence[Any], Mapping[str, object]]:
    """Return the common preprocessings of images, the best fit for a model first.

    Args:
        model: the ONNX file.
        images: name and content of each image, 16 to 64 of them.

    Returns:
        The `bn_ops.PreprocessingScore`s, and size and layout of the model's input as members of the
        JSON form of a preprocessing.

    Raises:
        BnrecalError: the model does not take images, or an image cannot be decoded.
    """
    path = _existing(model)
    with library("images are compared with a model in this process") as bn_ops:
        shapes = [tensor.shape for tensor in bn_ops.describe(path).inputs]
        # The levels 0…255 themselves, at the size that a preset gives the model.
        sized = preset("none", shapes, option="--images")
        preprocess = bn_ops.preprocess_from_json({**sized, "layout": "nhwc", "dtype": "uint8"})
        batches = _image_arrays([Images(items=tuple(images))], preprocess)
        pixels = [image for array in batches for image in array]
        return bn_ops.rank_preprocessings(path, pixels), sized


def classes_of(model: Path) -> int | None:
    """Return the number of classes of a model's outputs; None if unknown or different."""
    with library("labels are used in this process") as bn_ops:
        outputs = bn_ops.describe(_existing(model)).outputs
    sizes = [size for output in outputs for size in tuple(output.shape or ())[1:2]]
    counts = {size for size in sizes if isinstance(size, int)}
    return counts.pop() if len(counts) == 1 else None


def inputs_of(model: Path) -> Sequence[Any]:
    """Return the inputs of a model file, with or without BatchNorm layers."""
    path = _existing(model)
    with library("a model is inspected in this process") as bn_ops:
        from bn_ops.batchnorm_insertion.describe import describe_insertable

        # A model without layers is described too: they may be inserted from source samples.
        found = describe_insertable(path) or bn_ops.describe(path)
        return tuple(found.inputs)


def inspect_file(model: Path) -> Any:
    """Return the `bn_ops.ModelInfo` of a model file.

    Raises:
        BnrecalError: as a server would report it.
    """
    path = _existing(model)
    with library("a model is inspected in this process") as bn_ops:
        return bn_ops.describe(path)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedFile:
    """A model that was folded and verified.

    Attributes:
        folded: the `bn_ops.Folded`.
        layers: how each layer was folded, as JSON values.
        parity: the verification, as JSON values.
    """

    folded: Any
    layers: Sequence[Mapping[str, Any]]
    parity: Mapping[str, Any]


def fold_file(model: Path, batches: Iterable[Any]) -> FoldedFile:
    """Return the folded and verified model; a layer whose fold changes the outputs is kept.

    Args:
        model: the ONNX file.
        batches: samples for the verification, besides generated ones; may be empty.

    Raises:
        BnrecalError: the model or a batch is invalid.
    """
    path = _existing(model)
    with library("a model is folded in this process"):
        from bn_ops.onnx_files.load import load_model
        from bn_ops.verification import fold_verified

        folded, parity = fold_verified(load_model(path), batches)
        return FoldedFile(
            folded=folded,
            layers=[layer.to_json() for layer in folded.layers],
            parity=parity.to_json(),
        )


def _existing(model: Path) -> Path:
    if model.is_dir():
        raise ModelError(f"{model} is a folder; name the model file in it", code="model-invalid")
    if not model.is_file():
        raise ModelError(f"there is no model file {model}", code="model-invalid")
    return model


def _named(statistics: Any) -> Any:
    """Return bn_ops' statistics under the names in a server's file."""
    arrays = {}
    for layer, found in statistics.items():
        arrays[f"{layer}.running_mean"] = found.mean
        arrays[f"{layer}.running_var"] = found.var
    return MappingProxyType(arrays)
