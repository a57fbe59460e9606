"""Read and write model files: one `.onnx`, with external data where one message is too small.

Reading. ONNX lets a tensor name a file with its external data. The name is untrusted, so it is only
followed to a regular file in the model's own folder or below: relative, without `..`, and not
through symbolic or hard links. Each path component is opened without following links, so that it
cannot be exchanged between the check and the read. Lengths are checked against the tensor's shape
and the file's size before memory is allocated.

Writing. The name of the data file contains the digest of its content,
`model.onnx.0123456789abcdef.data`; it is published first, then the `.onnx` that names it. So the
`.onnx` and its external data match at any time, even after a power cut. Data files of earlier
models with the same name are removed last.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from bn_ops.errors import ExternalDataError, ModelInvalidError
from bn_ops.onnx_files.large_models import (
    MESSAGE_LIMIT,
    add_naming_large,
    bare_copy,
    exceeds,
    raw_bytes,
    serialized,
)
from bn_ops.onnx_files.traversal import all_nodes, subgraphs

if TYPE_CHECKING:
    import onnx

__all__ = ["Draft", "draft", "read_model", "require_embedded", "write_atomically", "write_model"]

# Files that are written completely or not at all.

# Read and write for everybody, less the process's umask, which open() applies.
_MODE = 0o666


class Draft:
    """A file that is being written under a temporary name in its destination folder."""

    def __init__(self, file: IO[bytes], temporary: Path) -> None:
        self.file = file
        self._temporary = temporary

    def publish(self, path: Path) -> None:
        """Make the content durable and rename the file to `path`, which is in the same folder."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self._temporary.replace(path)
        _sync_folder(path.parent)


@contextmanager
def draft(folder: Path, prefix: str) -> Iterator[Draft]:
    """Open a temporary file for writing; it is removed at the end unless it was published.

    Raises:
        OSError: the folder is missing or full.
    """
    temporary = folder / f".{prefix}.{secrets.token_hex(8)}"
    # Not tempfile: its files are private, while a model is readable like any other file of the
    # user, and the umask can only be read by changing it for all threads.
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder / prefix)) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield Draft(file, temporary)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file durably, replacing an existing one in one step.

    Raises:
        OSError: the folder is missing or full; an existing file at `path` is unchanged.
    """
    with draft(path.parent, path.name) as found:
        found.file.write(content)
        found.publish(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_ALIGNMENT = 4096
"""Alignment of external data in bytes, so that runtimes can map them into memory. Source: ONNX,
`docs/ExternalData.md`."""

_DIGITS = 16
"""Hexadecimal digits of the content's sha256 in the name of a data file."""

_WHY = {
    errno.ENOENT: "there is no such file in the model's folder",
    errno.ELOOP: "it is a symbolic link; use a copy",
    errno.ENOTDIR: "a component of its path is a link or not a folder",
}

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def read_model(path: Path) -> onnx.ModelProto:
    """Read a model with all its tensors.

    Raises:
        ModelInvalidError: the file is larger than one message can be.
        ExternalDataError: external data is in a place that is not allowed, or is missing.
        OSError: the file cannot be read.
        google.protobuf.message.DecodeError: the file is not a model.
    """
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    size = path.stat().st_size
    if size > MESSAGE_LIMIT:
        raise ModelInvalidError(
            f"{str(path)!r} has {size:,} bytes, more than one protobuf message can hold: save the "
            "model with external data"
        )
    model = onnx.load_model_from_string(path.read_bytes())
    for tensor in _external(model):
        _embed(tensor, path.parent)
    return model


def require_embedded(model: onnx.ModelProto) -> None:
    """Check that the model has no external data.

    Raises:
        ExternalDataError: a tensor has external data, which is only found from the model's path.
    """
    tensor = next(_external(model), None)
    if tensor is not None:
        raise ExternalDataError(
            f"tensor {tensor.name!r} has external data: pass the path of the model instead of its "
            "content, so that the data can be found"
        )


def write_model(model: onnx.ModelProto, path: Path, *, limit: int | None = None) -> None:
    """Write a model atomically and durably, with external data where it is too large.

    Args:
        model: not changed; its tensors are in memory.
        path: of the `.onnx`.
        limit: largest size in bytes without external data; `MESSAGE_LIMIT` by default.

    Raises:
        OSError: a file cannot be written; an existing model at `path` is unchanged.
        ModelUnsupportedError: the model is too large even without the initializers of its main
            graph.
    """
    data: str | None = None
    named = model
    if exceeds(model, limit):
        named = bare_copy(model)
        data = _write_data(model.graph.initializer, named.graph, path)
    write_atomically(path, serialized(named))
    _remove_stale(path, data)


def _external(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of initializers and attributes, including those of subgraphs."""
    yield from _initializers(model.graph)
    for node in all_nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for graph in subgraphs(node):
            yield from _initializers(graph)


def _initializers(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _embed(tensor: onnx.TensorProto, folder: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    name = entries.get("location", "")
    with _opened(tensor.name, name, folder) as file:
        offset, length = _extent(tensor, entries, os.fstat(file.fileno()).st_size)
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise _refused(tensor.name, name, "it was truncated while being read")
    tensor.raw_data = data
    tensor.ClearField("data_location")
    del tensor.external_data[:]


@contextmanager
def _opened(tensor: str, name: str, folder: Path) -> Iterator[IO[bytes]]:
    """Open a data file component by component, without following links."""
    parts = _checked_parts(tensor, name)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _refused(tensor, name, "the model's folder cannot be read") from error
    try:
        for index, part in enumerate(parts):
            flags = _FILE if index == len(parts) - 1 else _FOLDER
            inner = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _refused(tensor, name, "it is not a regular file")
        if found.st_nlink > 1:
            raise _refused(tensor, name, "it is a hard link; use a copy")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            yield file
    except OSError as error:
        raise _refused(tensor, name, _WHY.get(error.errno or 0, str(error.strerror))) from error
    finally:
        os.close(descriptor)


def _checked_parts(tensor: str, name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    if not parts or "\0" in name:
        raise _refused(tensor, name, "it has no valid name")
    if name.startswith("/") or "\\" in name or ":" in parts[0]:
        raise _refused(tensor, name, "its name must be relative, with / between folders")
    if ".." in parts:
        raise _refused(tensor, name, "its name points outside the model's folder")
    return parts


def _extent(tensor: onnx.TensorProto, entries: dict[str, str], size: int) -> tuple[int, int]:
    """Return offset and length of the data, checked against the shape and the file's size."""
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    name = entries.get("location", "")
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size - offset)))
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (ValueError, KeyError, TypeError) as error:
        raise _refused(tensor.name, name, f"its description is invalid, {error}") from error
    elements = math.prod(tensor.dims)
    bits = _PACKED_BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type), 8 * kind.itemsize)
    expected = -(-elements * bits // 8)
    if min(offset, length, *tensor.dims, 0) < 0 or length != expected:
        raise _refused(tensor.name, name, f"expected {expected:,} bytes, got {length:,}")
    if offset + length > size:
        raise _refused(
            tensor.name, name, f"the file ends at byte {size:,}, the data at {offset + length:,}"
        )
    return offset, length


_PACKED_BITS = {
    "INT4": 4,
    "UINT4": 4,
    "FLOAT4E2M1": 4,
    "INT2": 2,
    "UINT2": 2,
    "FLOAT6E2M3": 6,
    "FLOAT6E3M2": 6,
}
"""Element types that are packed into bytes, with their bits."""


def _refused(tensor: str, name: str, why: str) -> ExternalDataError:
    return ExternalDataError(
        f"the external data of tensor {tensor!r} in file {name!r} is rejected: {why}"
    )


def _write_data(tensors: Iterable[onnx.TensorProto], graph: onnx.GraphProto, path: Path) -> str:
    """Write the data of large tensors to a file and all tensors to a graph; return its name."""
    digest = hashlib.sha256()
    written: list[tuple[onnx.TensorProto, int, int]] = []
    with draft(path.parent, path.name) as found:
        for tensor, named in add_naming_large(tensors, graph):
            data = raw_bytes(tensor)
            written.append((named, _append(found.file, data, digest), len(data)))
        name = f"{path.name}.{digest.hexdigest()[:_DIGITS]}.data"
        found.publish(path.parent / name)
    for named, offset, length in written:
        entries = {"location": name, "offset": str(offset), "length": str(length)}
        for key, value in entries.items():
            named.external_data.add(key=key, value=value)
    return name


def _append(file: IO[bytes], data: bytes, digest: Any) -> int:
    """Append at the next multiple of the alignment; return the offset."""
    offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
    for part in (bytes(offset - file.tell()), data):
        file.write(part)
        digest.update(part)
    return offset


def _remove_stale(path: Path, kept: str | None) -> None:
    ours = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{{_DIGITS}}}\.data")
    for other in path.parent.iterdir():
        if ours.fullmatch(other.name) and other.name != kept:
            other.unlink(missing_ok=True)
