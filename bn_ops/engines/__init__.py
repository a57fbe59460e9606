"""The engines that run a network over a stream: onnxruntime and torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bn_ops.core.options import RecalibrateOptions
    from bn_ops.input_check.engine import CheckedEngine

__all__ = ["open_engine"]

# Modules with a function `open_engine(model, batches, options)`, imported on first use: torch is
# optional. A new engine is one module and one line here.
_MODULES = {
    "onnx": "bn_ops.engines.onnx.engine",
    "torch": "bn_ops.engines.torch.engine",
}


def open_engine(
    name: str, model: object, batches: Iterable[Any], options: RecalibrateOptions
) -> CheckedEngine[Any, Any]:
    """Open an engine on a model and a stream.

    Raises:
        ModelError: the model cannot be recalibrated.
        OptionError: an option does not apply to the engine.
    """
    engine: CheckedEngine[Any, Any] = importlib.import_module(_MODULES[name]).open_engine(
        model, batches, options
    )
    return engine
