"""The transaction: recalibrate, export, fold, verify; all of it, or nothing changes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bn_ops.api import is_torch, recalibrate
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.diagnostics.report import Report
from bn_ops.errors import OptionError
from bn_ops.onnx_files.read_write import write_model
from bn_ops.progress import Progress, ProgressCallback, silent

if TYPE_CHECKING:
    import onnx

    from bn_ops.core.batches import Select
    from bn_ops.core.estimators import Estimator
    from bn_ops.core.train_accumulator import Variance
    from bn_ops.folding import Folded
    from bn_ops.options import Budget
    from bn_ops.result import Recalibration

__all__ = ["Artifact", "adapt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What is ready to deploy, with its proof.

    Attributes:
        model: the recalibrated, folded, verified ONNX model.
        unfolded: the recalibrated ONNX model with its BatchNormalization nodes.
        statistics: the new running statistics of each recalibrated layer, float64.
        report: what was done.
    """

    model: onnx.ModelProto
    unfolded: onnx.ModelProto
    statistics: Mapping[LayerName, RunningStatistics]
    report: Report

    def save(self, path: str | Path) -> None:
        """Write the folded model to a file, atomically and durably.

        A model above 2 GiB gets its tensors beside it; see `bn_ops.onnx_files.read_write`.

        Raises:
            OSError: the file cannot be written; what stood there is untouched.
        """
        write_model(self.model, Path(path))

    def save_unfolded(self, path: str | Path) -> None:
        """Write the unfolded model likewise."""
        write_model(self.unfolded, Path(path))


def adapt(
    model: Any,
    batches: Iterable[Any],
    *,
    method: str = "exact",
    estimator: Estimator | None = None,
    layers: Sequence[str] | None = None,
    engine: str = "auto",
    budget: Budget | None = None,
    progress: ProgressCallback | None = None,
    select: Select | None = None,
    threads: int | None = None,
    variance: Variance = "population",
    evaluate: Iterable[Any] | None = None,
    example_inputs: Any = None,
    **torch_options: Any,
) -> Artifact:
    """Recalibrate, fold and verify in one transaction.

    Arguments and errors are those of `bn_ops.recalibrate`, with `compare=True`; an `nn.Module` is
    exported with `example_inputs`, by default the first samples of the stream.

    Returns:
        The artifact. An `nn.Module` then holds the new statistics; if anything fails it is as it
        was, bit for bit.

    Raises:
        ParityError: the model cannot be folded so that it computes the same, whichever layers stay.
        ExportError: an `nn.Module` cannot be exported.
    """
    tell = progress or silent
    done = recalibrate(
        model,
        batches,
        method=method,
        estimator=estimator,
        layers=layers,
        engine=engine,
        budget=budget,
        progress=tell,
        select=select,
        threads=threads,
        variance=variance,
        compare=True,
        evaluate=evaluate,
        **torch_options,
    )
    try:
        return _finish(_as_onnx(model, done, example_inputs), done, tell, threads)
    except BaseException:
        done.undo()
        raise


def _finish(
    unfolded: onnx.ModelProto,
    done: Recalibration[Any],
    tell: ProgressCallback,
    threads: int | None,
) -> Artifact:
    from bn_ops.verification import fold_verified  # noqa: PLC0415 - loads onnxruntime

    started = time.perf_counter()
    tell(Progress(phase="folding", done=0, total=1))
    folded, parity = fold_verified(unfolded, done.calibration, threads=threads)
    tell(Progress(phase="verifying", done=1, total=1))
    report = replace(
        done.report,
        fold=folded.layers,
        parity=parity,
        timings={**done.report.timings, "fold and verify": time.perf_counter() - started},
        warnings=(
            *done.report.warnings,
            *_fold_warnings(folded),
        ),
    )
    return Artifact(
        model=_labelled(folded.model, report),
        unfolded=_labelled(unfolded, report),
        statistics=done.statistics,
        report=report,
    )


def _as_onnx(model: Any, done: Recalibration[Any], example: Any) -> onnx.ModelProto:
    if not is_torch(model):
        return done.model  # type: ignore[no-any-return]  # a ModelProto by the engine's contract
    from bn_ops.exporting import export  # noqa: PLC0415 - torch is optional

    if example is not None:
        return export(model, example)
    if not done.calibration:
        raise OptionError("with call= the module's arguments are not known: give example_inputs=")
    return export(model, dict(done.calibration[0]))


def _fold_warnings(folded: Folded) -> tuple[str, ...]:
    kept = [layer for layer in folded.layers if layer.status != "folded"]
    if not kept:
        return ()
    share = f"{len(kept)} of {len(folded.layers)} layers stay BatchNormalization nodes"
    return (f"{share}; {kept[0].name!r}: {kept[0].reason}",)


def _labelled(model: onnx.ModelProto, report: Report) -> onnx.ModelProto:
    """Write into a model's metadata where it comes from."""
    labels = {
        "bnrecal.version": report.bnrecal,
        "bnrecal.source_sha256": report.source_sha256 or "",
        "bnrecal.method": report.method,
        "bnrecal.estimator": str(report.estimator["name"]),
        "bnrecal.samples": str(report.stream.samples),
    }
    kept = [entry for entry in model.metadata_props if entry.key not in labels]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    for key, value in labels.items():
        model.metadata_props.add(key=key, value=value)
    return model
