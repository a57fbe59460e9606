"""Access to onnxruntime: telemetry off, quiet, errors translated."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bn_ops.errors import EngineError, ModelInvalidError
from bn_ops.onnx_files.large_models import packed

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    import onnx
    from numpy.typing import NDArray

__all__ = ["Session", "onnxruntime", "open_inner", "session", "translated"]

# onnxruntime's severity levels: 0 verbose … 4 fatal. Its warnings are about initializers and
# provider choices, on which a user of this package cannot act.
_LOG_ERRORS_ONLY = 3

# onnx.TensorProto.BFLOAT16, without loading onnx for it.
_ONNX_BFLOAT16 = 16


@cache
def onnxruntime() -> ModuleType:
    """Import onnxruntime with its telemetry off.

    From 1.29 telemetry is on by default on Linux and writes id files under the user's cache folder.
    The variable is read once, at import, so it must be set before. This is the only environment
    variable that this package sets.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort  # noqa: PLC0415 - after the variable is set

    return ort  # type: ignore[no-any-return]  # untyped package


@contextmanager
def translated(action: str) -> Iterator[None]:
    """Raise onnxruntime's exceptions as `EngineError`."""
    try:
        yield
    except Exception as error:
        # onnxruntime's exceptions have no common base class of their own.
        if type(error).__module__.startswith("onnxruntime"):
            raise EngineError(f"onnxruntime failed while {action}: {error}") from error
        raise


class Session:
    """One model in onnxruntime on the CPU.

    Args:
        inner: onnxruntime's own session.
        keep_alive: objects whose memory that session uses.
    """

    def __init__(self, inner: Any, keep_alive: Any = None) -> None:
        self._inner = inner
        self._keep_alive = keep_alive

    def run(
        self, outputs: Sequence[str] | None, feeds: Mapping[str, NDArray[np.generic]]
    ) -> list[NDArray[np.generic]]:
        """Run the model; `outputs=None` means all, in the model's order.

        Raises:
            EngineError: onnxruntime rejected the inputs or failed.
        """
        with translated("running the model"):
            return self._inner.run(  # type: ignore[no-any-return]  # untyped package
                None if outputs is None else list(outputs),
                {name: _feed(array) for name, array in feeds.items()},
            )


def _feed(array: NDArray[np.generic]) -> Any:
    """Return an array as onnxruntime takes it: bfloat16 is not one of numpy's own types."""
    if array.dtype.name != "bfloat16":
        return array
    bits = array.view("uint16")
    return onnxruntime().OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _ONNX_BFLOAT16)


def session(
    model: onnx.ModelProto | bytes | str | Path,
    *,
    threads: int | None = None,
    optimize: bool = True,
    disabled: Sequence[str] = (),
    more_outputs: Sequence[str] = (),
) -> Session:
    """Open a model.

    Args:
        model: a model of any size, a serialized one, or a path (required for external data).
        threads: threads within an operator; None means every core.
        optimize: whether onnxruntime optimizes the graph.
        disabled: names of optimizations to leave out.
        more_outputs: tensors of a `ModelProto` to return as additional outputs.

    Raises:
        ModelInvalidError: onnxruntime cannot load the model.
        ModelUnsupportedError: the model is too large even without the initializers of its main
            graph.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    try:
        inner, keep_alive = open_inner(model, options, disabled=disabled, more_outputs=more_outputs)
    except EngineError as error:
        raise ModelInvalidError(error.message) from error
    return Session(inner, keep_alive)


def open_inner(
    model: onnx.ModelProto | bytes | str | Path,
    options: Any,
    *,
    disabled: Sequence[str] = (),
    more_outputs: Sequence[str] = (),
) -> tuple[Any, Any]:
    """Open onnxruntime's own session; return it with the objects that must outlive it.

    Raises:
        EngineError: onnxruntime cannot load the model.
    """
    ort = onnxruntime()
    source: bytes | str
    external: dict[str, Any] = {}
    if isinstance(model, bytes):
        source = model
    elif isinstance(model, str | Path):
        source = str(model)
    else:
        parts = packed(model, more_outputs=more_outputs)
        source = parts.content
        external = {
            name: ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in parts.external_initializers.items()
        }
        if external:
            options.add_external_initializers(list(external), list(external.values()))
    with translated("loading the model"):
        inner = ort.InferenceSession(
            source,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=list(disabled),
        )
    return inner, external
