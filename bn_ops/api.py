"""The door to both engines: one model and one stream in, new statistics out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bn_ops.core.estimators import Estimator, Replace
from bn_ops.engines.onnx.describe import describe_prepared
from bn_ops.engines.onnx.engine import recalibrate_onnx
from bn_ops.engines.onnx.prepare import prepare
from bn_ops.errors import ModelUnsupportedError, OptionError
from bn_ops.onnx_files.load import load_model

if TYPE_CHECKING:
    from bn_ops.core.batches import Select
    from bn_ops.core.layers import LayerInfo, ModelInfo
    from bn_ops.core.train_accumulator import Variance
    from bn_ops.options import Budget
    from bn_ops.progress import ProgressCallback
    from bn_ops.result import Recalibration

__all__ = ["as_onnx", "describe", "inspect", "is_torch", "recalibrate"]

_METHODS = ("exact", "batch")
_ENGINES = ("auto", "onnx", "torch")


def describe(model: Any) -> ModelInfo:
    """Describe an ONNX model: inputs, outputs, layers, warnings.

    Args:
        model: an `onnx.ModelProto`, serialised bytes, a path to an `.onnx` or `.pt2` file, or a
            `torch.export.ExportedProgram`. Not changed.

    Raises:
        ModelInvalidError: no ONNX model.
        ModelWithoutBatchNormError: no BatchNorm layer in it.
    """
    return describe_prepared(prepare(load_model(as_onnx(model))))


def inspect(model: Any) -> list[LayerInfo]:
    """List the BatchNorm layers of a model, and why one cannot be recalibrated.

    Args:
        model: an `nn.Module`, an `onnx.ModelProto`, serialised bytes or a path. Not changed.

    Raises:
        ModelError: as `describe`.
    """
    if is_torch(model):
        from bn_ops.engines.torch import describe_module  # noqa: PLC0415 - torch is optional

        return list(describe_module(model))
    return list(describe(model).layers)


def recalibrate(
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
    compare: bool = False,
    evaluate: Iterable[Any] | None = None,
    **torch_options: Any,
) -> Recalibration[Any]:
    """Recompute the running statistics of a model's BatchNorm layers, and nothing else.

    With `method="exact"` each layer's new statistics are the pooled moments, over all samples and
    positions of the stream, of the input that it receives in eval mode with every layer before it
    already recalibrated. They depend neither on batch size nor on order, at the cost of one forward
    pass.

    Args:
        model: an `nn.Module` (changed in place, only when all has succeeded), a
            `torch.export.ExportedProgram` (exported to ONNX first), an `onnx.ModelProto`,
            serialised bytes, or a path to an `.onnx` or `.pt2` file (never changed; the result
            holds a new model).
        batches: iterable of arrays, tensors, tuples, or mappings from input name to array; first
            axis = samples. Read once.
        method: `exact`, or `batch`: one train-mode pass, as most tools do.
        estimator: moments and source statistics to new ones; default `Replace()`.
        layers: glob patterns to include, `"!pattern"` to leave out; None means all.
        engine: `auto` takes torch for modules and onnxruntime for ONNX.
        budget: memory and disk for tensors that wait; default `Budget()`.
        progress: called between steps; raise `CancelledError` in it to stop.
        select: applied to each item of the stream first, for `(input, label)` pairs.
        threads: threads within an operator (ONNX); None means every core.
        variance: for `method="batch"`, how batches become one variance: `population`, `unbiased`
            or `mean_of_batches` (see `bn_ops.core.train_accumulator.Variance`).
        compare: run the first 32 samples through the network before and after, so that the report
            holds activations by depth and how a classification head's answers changed.
        evaluate: `(inputs, labels)` pairs, labels as whole numbers, one class per sample (or per
            position): the report then holds the error before and after. Read first, kept until the
            end; `select` does not apply. Labels never enter the statistics.
        **torch_options: see `bn_ops.engines.torch.recalibrate_module`.

    Raises:
        BatchError: a batch does not fit or holds NaN or Inf; names batch and input.
        StreamEmptyError: no sample came.
        ModelError: the model cannot be recalibrated.
        LayerNotFiniteError: NaN or Inf arises inside the network.
        SpillLimitError: the budget is too small.
    """
    _check_options(method, engine)
    chosen = estimator if estimator is not None else Replace()
    if is_torch(model):
        if engine == "onnx":
            raise OptionError('engine="onnx" needs an ONNX model: bn_ops.export makes one')
        from bn_ops.engines.torch import recalibrate_module  # noqa: PLC0415 - torch is optional

        return recalibrate_module(
            model,
            batches,
            method=method,
            variance=variance,
            estimator=chosen,
            layers=layers,
            budget=budget,
            progress=progress,
            select=select,
            compare=compare,
            evaluate=evaluate,
            **torch_options,
        )
    if engine == "torch":
        raise OptionError('engine="torch" needs an nn.Module')
    if torch_options:
        raise OptionError(f"unknown options for an ONNX model: {', '.join(sorted(torch_options))}")
    return recalibrate_onnx(
        load_model(as_onnx(model)),
        batches,
        estimator=chosen,
        method=method,
        variance=variance,
        layers=layers,
        budget=budget,
        progress=progress,
        select=select,
        threads=threads,
        compare=compare,
        evaluate=evaluate,
    )


def _check_options(method: str, engine: str) -> None:
    if method not in _METHODS:
        raise OptionError(f"unknown method {method!r}; there are {', '.join(_METHODS)}")
    if engine not in _ENGINES:
        raise OptionError(f"unknown engine {engine!r}; there are {', '.join(_ENGINES)}")


def is_torch(model: object) -> bool:
    """Tell whether a model is a torch module, without importing torch."""
    return any(
        base.__module__ == "torch.nn.modules.module" and base.__name__ == "Module"
        for base in type(model).__mro__
    )


def _is_program(model: object) -> bool:
    """Tell whether a model is a `torch.export.ExportedProgram`, without importing torch."""
    kind = type(model)
    return kind.__name__ == "ExportedProgram" and kind.__module__.startswith("torch.export")


def as_onnx(model: Any) -> Any:
    """Return what `load_model` takes; programs, in memory or in a `.pt2` file, are exported."""
    if isinstance(model, str | Path) and Path(model).suffix == ".pt2":
        from bn_ops.pt2 import load_pt2  # noqa: PLC0415 - torch is optional

        model = load_pt2(model)
    if _is_program(model):
        from bn_ops.exporting import export  # noqa: PLC0415 - torch is optional

        return export(model)
    if isinstance(model, bytes | str | Path) or type(model).__name__ == "ModelProto":
        return model
    raise ModelUnsupportedError(
        "a model is an nn.Module, a torch.export.ExportedProgram, an onnx.ModelProto, bytes or a "
        f"path, not {type(model).__name__}"
    )
