"""What callers may pass as a model, and how it becomes what an engine takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bn_ops.errors import ModelUnsupportedError

__all__ = ["as_onnx", "is_torch"]


def is_torch(model: object) -> bool:
    """Return whether a model is a torch module, without importing torch."""
    return any(
        base.__module__ == "torch.nn.modules.module" and base.__name__ == "Module"
        for base in type(model).__mro__
    )


def _is_program(model: object) -> bool:
    """Return whether a model is a `torch.export.ExportedProgram`, without importing torch."""
    kind = type(model)
    return kind.__name__ == "ExportedProgram" and kind.__module__.startswith("torch.export")


def as_onnx(model: Any) -> Any:
    """Return a source for `load_model`; programs, in memory or in a `.pt2` file, are exported."""
    if isinstance(model, str | Path) and Path(model).suffix == ".pt2":
        from bn_ops.torch_modules.pt2 import load_pt2  # noqa: PLC0415 - torch is optional

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
