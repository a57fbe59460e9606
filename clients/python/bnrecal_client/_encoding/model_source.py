"""Reading a model: from a path, bytes, an ONNX message, or a module, which is exported."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bnrecal_client._encoding.external_data import bundled
from bnrecal_client._http.messages import Body, FileBody, sha256_hex
from bnrecal_client.errors import ModelError

__all__ = [
    "AnyModel",
    "ModelContent",
    "SerializableModel",
    "export",
    "is_module",
    "read_model",
]


@runtime_checkable
class SerializableModel(Protocol):
    """The method of `onnx.ModelProto` that is used; a protocol, so that onnx is not required."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return the model's bytes."""
        ...


_PAIR = 2

# An nn.Module and an ExportedProgram are `object` to a package that does not know torch.
AnyModel = str | os.PathLike[str] | bytes | SerializableModel | object


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelContent:
    """A model to upload.

    Attributes:
        body: the bytes, or the file that holds them.
        sha256: digest of the bytes in hex; it is the model's id at the server.
    """

    body: Body
    sha256: str


def is_module(model: object) -> bool:
    """Return whether a model is an nn.Module or ExportedProgram, which must be exported first.

    Such an object exists only where torch has been loaded, so torch is never imported here.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    exported = sys.modules.get("torch.export")
    kinds = [getattr(torch.nn, "Module", None), getattr(exported, "ExportedProgram", None)]
    return isinstance(model, tuple(kind for kind in kinds if isinstance(kind, type)))


def export(module: Any, example: object) -> SerializableModel:
    """Return a module, exported to ONNX on this machine with its BatchNorm kept.

    Args:
        module: nn.Module or ExportedProgram; not changed.
        example: the first batch of the caller's iterable.

    Raises:
        ModelError: bn_ops is not installed, or the module cannot be exported.
    """
    try:
        import bn_ops  # noqa: PLC0415 - optional: only a module needs it
    except ImportError as error:
        raise ModelError(
            f"a {type(module).__name__} is exported to ONNX on this machine, which needs bn_ops: "
            'pip install "bnrecal[torch]", or export it yourself with BatchNorm kept and pass '
            "the file",
            code="export-failed",
        ) from error
    try:
        model: SerializableModel = bn_ops.export(module, _as_tensors(_arguments(module, example)))
    except bn_ops.BnOpsError as error:
        raise ModelError(error.message, code=error.code) from error
    return model


def _arguments(module: Any, example: Any) -> Any:
    """Return an item of a stream without labels that the module does not take."""
    if not isinstance(example, tuple | list) or not example:
        return example
    try:
        parameters = signature(module.forward)
    except (AttributeError, ValueError):
        return example  # an ExportedProgram, or a traced module: their inputs are not known here
    try:
        parameters.bind(*example)
    except TypeError:
        try:
            parameters.bind(*example[:-1])
        except TypeError:
            return example
        return example[0] if len(example) == _PAIR else tuple(example[:-1])
    return example


def _as_tensors(example: Any) -> Any:
    """Return arrays as tensors: a stream may hold either, a module takes tensors."""
    if isinstance(example, Mapping):
        return {name: _as_tensors(value) for name, value in example.items()}
    if isinstance(example, tuple | list):
        return tuple(_as_tensors(value) for value in example)
    torch = sys.modules["torch"]
    return torch.as_tensor(example)


def read_model(model: AnyModel) -> ModelContent:
    """Return a model's bytes and digest; a file is hashed in pieces and not read into memory.

    A model with external data files is packed with them into one archive.

    Raises:
        ModelError: the file cannot be read, or the object is of an unknown kind.
    """
    if isinstance(model, str | os.PathLike):
        return _from_file(Path(model))
    if is_module(model):
        raise ModelError(
            f"a {type(model).__name__} must be exported first, with an example batch: "
            "recalibrate does it, or bn_ops.export(module, example_inputs)",
            code="export-failed",
        )
    if isinstance(model, bytes | bytearray | memoryview):
        content = bytes(model)
    elif isinstance(model, SerializableModel):
        content = model.SerializeToString()
    else:
        raise ModelError(
            f"a model is a path, bytes, an onnx.ModelProto, an nn.Module or an ExportedProgram; "
            f"got {type(model).__name__}",
            code="model-invalid",
        )
    return ModelContent(body=content, sha256=sha256_hex(content))


def _from_file(path: Path) -> ModelContent:
    try:
        if (bundle := bundled(path)) is not None:
            return ModelContent(body=bundle, sha256=sha256_hex(bundle))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise ModelError(
            f"the model {path} cannot be read: {error.strerror or error}", code="model-invalid"
        ) from error
    return ModelContent(body=FileBody(path=path, bytes=size), sha256=digest)
