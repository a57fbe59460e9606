"""Models as files: one `.onnx`, and beside it the tensors that one message has no room for.

Reading. ONNX lets a tensor name a file that holds its data. Such a name is data of whoever made the
model, so it is followed only to a plain file in the model's own folder or below: relative, without
`..`, through no link, neither symbolic nor hard. Each step is opened without following links, so
that nothing can be put in its place between the check and the reading. Lengths are checked against
the tensor's shape and the file's size before memory is taken.

Writing. The data file's name holds the digest of its content, `model.onnx.0123456789abcdef.data`;
it is published first, then the `.onnx` that names it. So at any instant, a power cut included, the
`.onnx` that stands there goes with the data beside it. Data files of earlier models under the
same name are removed last.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from bn_ops.errors import ExternalDataError, ModelInvalidError
from bn_ops.onnx_files.atomic_write import draft, write_atomically
from bn_ops.onnx_files.large_models import (
    MESSAGE_LIMIT,
    add_naming_large,
    bare_copy,
    exceeds,
    raw_bytes,
    serialised,
)

if TYPE_CHECKING:
    import onnx

__all__ = ["read_model", "require_embedded", "write_model"]

_ALIGNMENT = 4096
"""Bytes that data start at a multiple of, so that runtimes can map them into memory. Source: ONNX,
`docs/ExternalData.md`."""

_DIGITS = 16
"""Hexadecimal digits of the content's sha256 in a data file's name."""

_WHY = {
    errno.ENOENT: "there is no such file beside the model",
    errno.ELOOP: "it is a link; a copy would do",
    errno.ENOTDIR: "it lies behind a link, or in what is no folder",
}

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK


def read_model(path: Path) -> onnx.ModelProto:
    """Read a model with all its tensors.

    Raises:
        ModelInvalidError: the file is larger than one message can be.
        ExternalDataError: a tensor lies where it must not, or its data are not there.
        OSError: the file cannot be read.
        google.protobuf.message.DecodeError: it is no model.
    """
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    size = path.stat().st_size
    if size > MESSAGE_LIMIT:
        raise ModelInvalidError(
            f"{str(path)!r} has {size:,} bytes, more than one message holds: such a model is saved "
            "with its tensors in a file beside it"
        )
    model = onnx.load_model_from_string(path.read_bytes())
    for tensor in _external(model):
        _embed(tensor, path.parent)
    return model


def require_embedded(model: onnx.ModelProto) -> None:
    """Check that no tensor lies in another file.

    Raises:
        ExternalDataError: one does; only a path says where that file would be.
    """
    tensor = next(_external(model), None)
    if tensor is not None:
        raise ExternalDataError(
            f"tensor {tensor.name!r} lies in another file: give the path of the model, beside "
            "which it is found, instead of its content"
        )


def write_model(model: onnx.ModelProto, path: Path, *, limit: int | None = None) -> None:
    """Write a model, atomically and durably; the tensors beside it where it is too large.

    Args:
        model: not changed; its tensors are in memory.
        path: of the `.onnx`.
        limit: bytes from which on tensors are written beside it; what one message holds by default.

    Raises:
        OSError: a file cannot be written; the model that stood at `path` is untouched.
        ModelUnsupportedError: it is too large even without the tensors of its main graph.
    """
    data: str | None = None
    named = model
    if exceeds(model, limit):
        named = bare_copy(model)
        data = _write_data(model.graph.initializer, named.graph, path)
    write_atomically(path, serialised(named))
    _remove_stale(path, data)


def _external(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    for tensor in (*_of_graph(model.graph), *_of_functions(model.functions)):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_functions(functions: Iterable[onnx.FunctionProto]) -> Iterator[onnx.TensorProto]:
    for function in functions:
        yield from _of_nodes(function.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _of_graph(graph)


def _embed(tensor: onnx.TensorProto, folder: Path) -> None:
    told = {entry.key: entry.value for entry in tensor.external_data}
    name = told.get("location", "")
    with _opened(tensor.name, name, folder) as file:
        offset, length = _extent(tensor, told, os.fstat(file.fileno()).st_size)
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise _refused(tensor.name, name, "it became shorter while it was read")
    tensor.raw_data = data
    tensor.ClearField("data_location")
    del tensor.external_data[:]


@contextmanager
def _opened(tensor: str, name: str, folder: Path) -> Iterator[IO[bytes]]:
    """Open a data file step by step, following no link."""
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
            raise _refused(tensor, name, "it is no plain file")
        if found.st_nlink > 1:
            raise _refused(tensor, name, "it is a hard link; a copy would do")
        with os.fdopen(os.dup(descriptor), "rb") as file:
            yield file
    except OSError as error:
        raise _refused(tensor, name, _WHY.get(error.errno or 0, str(error.strerror))) from error
    finally:
        os.close(descriptor)


def _checked_parts(tensor: str, name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    if not parts or "\0" in name:
        raise _refused(tensor, name, "it has no name")
    if name.startswith("/") or "\\" in name or ":" in parts[0]:
        raise _refused(tensor, name, "its name must be relative, with / between folders")
    if ".." in parts:
        raise _refused(tensor, name, "its name leads out of the model's folder")
    return parts


def _extent(tensor: onnx.TensorProto, told: dict[str, str], size: int) -> tuple[int, int]:
    """Return where the data begin and how long they are, as shape and file agree."""
    import onnx  # noqa: PLC0415 - the light modules of this package load without it

    name = told.get("location", "")
    try:
        offset = int(told.get("offset", "0"))
        length = int(told.get("length", str(size - offset)))
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except (ValueError, KeyError, TypeError) as error:
        raise _refused(tensor.name, name, f"it is described wrongly, {error}") from error
    elements = math.prod(tensor.dims)
    bits = _PACKED_BITS.get(onnx.TensorProto.DataType.Name(tensor.data_type), 8 * kind.itemsize)
    wanted = -(-elements * bits // 8)
    if min(offset, length, *tensor.dims, 0) < 0 or length != wanted:
        raise _refused(tensor.name, name, f"it should hold {wanted:,} bytes, not {length:,}")
    if offset + length > size:
        raise _refused(tensor.name, name, f"it ends at {size:,}, before {offset + length:,}")
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
"""Element types of which several share a byte."""


def _refused(tensor: str, name: str, why: str) -> ExternalDataError:
    return ExternalDataError(f"the data of tensor {tensor!r} in file {name!r} are refused: {why}")


def _write_data(tensors: Iterable[onnx.TensorProto], graph: onnx.GraphProto, path: Path) -> str:
    """Write the large tensors to one file, all of them into a graph; return the file's name."""
    digest = hashlib.sha256()
    written: list[tuple[onnx.TensorProto, int, int]] = []
    with draft(path.parent, path.name) as found:
        for tensor, named in add_naming_large(tensors, graph):
            data = raw_bytes(tensor)
            written.append((named, _append(found.file, data, digest), len(data)))
        name = f"{path.name}.{digest.hexdigest()[:_DIGITS]}.data"
        found.publish(path.parent / name)
    for named, offset, length in written:
        told = {"location": name, "offset": str(offset), "length": str(length)}
        for key, value in told.items():
            named.external_data.add(key=key, value=value)
    return name


def _append(file: IO[bytes], data: bytes, digest: Any) -> int:
    """Append at the next multiple of the alignment; return where that is."""
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
