"""Load and check an ONNX model from bytes or a path, translating foreign errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bn_ops.errors import BnOpsError, ModelInvalidError
from bn_ops.onnx_files.large_models import check_model
from bn_ops.onnx_files.read_write import read_model, require_embedded

if TYPE_CHECKING:
    import onnx

__all__ = ["load_model"]

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"

_EXPORT_ADVICE = (
    "export the model with bn_ops.export(module, example_inputs) and send the ONNX file"
)


def load_model(source: onnx.ModelProto | bytes | str | Path) -> onnx.ModelProto:
    """Read and check a model; a ModelProto is checked and returned unchanged.

    Raises:
        ModelInvalidError: not an ONNX model, or one that the ONNX checker rejects.
        ExternalDataError: external data is in a place that is not allowed, or is missing.
    """
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    model = source if isinstance(source, onnx.ModelProto) else _parse(source)
    if not model.HasField("graph") or not model.graph.output:
        raise ModelInvalidError(f"this is not an ONNX model: it has no graph; {_EXPORT_ADVICE}")
    require_embedded(model)
    try:
        check_model(model)
    except Exception as error:
        raise ModelInvalidError(f"the ONNX checker rejects the model: {error}") from error
    return model


def _parse(source: bytes | str | Path) -> onnx.ModelProto:
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    try:
        if isinstance(source, bytes):
            head = source[:4]
            return onnx.load_model_from_string(source)
        with Path(source).open("rb") as file:
            head = file.read(4)
        return read_model(Path(source))
    except FileNotFoundError as error:
        raise ModelInvalidError(f"there is no model file {str(source)!r}") from error
    except IsADirectoryError as error:
        raise ModelInvalidError(
            f"{str(source)!r} is a folder; name the model file in it"
        ) from error
    except OSError as error:
        raise ModelInvalidError(f"cannot read the model file {str(source)!r}: {error}") from error
    except BnOpsError:
        raise
    except Exception as error:
        # protobuf's DecodeError and similar.
        raise ModelInvalidError(f"this is not an ONNX model: {_guess(head, error)}") from error


def _guess(head: bytes, error: Exception) -> str:
    if head.startswith(_ZIP):
        return f"it is a zip archive (a .pt2, TorchScript or .pth file?); {_EXPORT_ADVICE}"
    if head.startswith(_PICKLE):
        return f"it looks like a pickle, which is never loaded; {_EXPORT_ADVICE}"
    return f"{str(error) or type(error).__name__}; {_EXPORT_ADVICE}"
