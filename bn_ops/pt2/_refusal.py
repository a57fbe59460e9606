"""The one way to say that a `.pt2` file is not taken."""

from __future__ import annotations

from bn_ops.errors import ModelUnsafeError

__all__ = ["refused"]

_LONGEST = 80


def refused(what: str, found: object = None) -> ModelUnsafeError:
    """Build the error for a part that is not on the list of what is allowed."""
    text = "" if found is None else f": {str(found)[:_LONGEST]!r}"
    return ModelUnsafeError(
        f"the .pt2 file holds {what}{text}, which is not taken, since loading it could run code; "
        "export the model with bn_ops.export(program) where you trust it and send the ONNX file"
    )
