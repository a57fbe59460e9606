"""ONNX models with external data files, found without onnx and packed into one archive.

onnx is not a dependency of the client, so this module reads the part of the format that names the
files. A model that it cannot read is sent unchanged, and the server reports what is wrong.

Source: onnx.proto (field numbers); protobuf's documentation, "Encoding".
"""

from __future__ import annotations

import io
import mmap
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from bnrecal_client.errors import ModelError

__all__ = ["bundled"]

# For each kind of message, the field numbers that lead to a file name and the kind in that field.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse",
        23: "sparse",
    },
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
# The limit of protobuf's own parsers.
_MAX_DEPTH = 100

# Equal files give an equal archive, and so the same model id, which a retry finds at the server.
_DATE = (1980, 1, 1, 0, 0, 0)


def bundled(path: Path) -> bytes | None:
    """Return a model and its external data files as a zip archive; None if it has no such files.

    Args:
        path: of the `.onnx` file; names in it are relative to its folder.

    Raises:
        ModelError: a named file is missing, or is a link.
        OSError: a file cannot be read.
    """
    names = _named_files(path)
    if not names or not all(map(_is_plain, names)):
        return None
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_model_name(names), _DATE), path.read_bytes())
        for name in names:
            archive.writestr(zipfile.ZipInfo(name, _DATE), _content(path, name))
    return packed.getvalue()


def _model_name(names: Sequence[str]) -> str:
    """Return a name for the model that none of its files has."""
    name = "model.onnx"
    while name in names:
        name = f"_{name}"
    return name


def _is_plain(name: str) -> bool:
    """Return whether a name stays in the model's folder; the server rejects others."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def _content(model: Path, name: str) -> bytes:
    path = model.parent
    for part in PurePosixPath(name).parts:
        path /= part
        if path.is_symlink():
            raise _rejected(model, name, "links are not followed")
    try:
        return path.read_bytes()
    except OSError as error:
        raise _rejected(model, name, str(error.strerror or error)) from error


def _rejected(model: Path, name: str, why: str) -> ModelError:
    return ModelError(
        f"the model {model} has external data in {name!r}: {why}", code="external-data"
    )


def _named_files(path: Path) -> list[str]:
    with path.open("rb") as file:
        try:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except ValueError:  # an empty file
            return []
    try:
        return list(dict.fromkeys(_locations(content, "model", 0)))
    except (IndexError, UnicodeDecodeError):
        return []


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        return
    if kind == "entry":
        found = {number: bytes(value).decode() for number, value in _fields(message)}
        if found.get(_KEY) == "location":
            yield found.get(_VALUE, "")
        return
    for number, value in _fields(message):
        if (inner := _INSIDE[kind].get(number)) is not None:
            yield from _locations(value, inner, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield number and content of the length-delimited fields.

    Raises:
        IndexError: the bytes are not a valid message.
    """
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            _, position = _varint(message, position)
        elif wire == _BYTES:
            size, position = _varint(message, position)
            if position + size > len(message):
                raise IndexError("a field ends beyond its message")
            yield number, message[position : position + size]
            position += size
        elif wire in _FIXED_SIZES:
            position += _FIXED_SIZES[wire]
        else:
            raise IndexError("an invalid wire type")


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte has no continuation bit
            return value, position
        shift += 7
        if shift > 63:  # noqa: PLR2004 - the most bits of a varint
            raise IndexError("a varint is too long")
