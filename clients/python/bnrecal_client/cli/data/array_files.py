"""Data files, memory-mapped: `.npy`, `.npz` and `.safetensors`, or folders of them."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bnrecal_client.cli.data.folders import FoundFiles, find
from bnrecal_client.errors import InputError

__all__ = ["Table", "find_files", "open_table"]

Array = NDArray[np.generic]
_IMAGES_NEED = (
    "images need --preprocess, such as --preprocess imagenet (`bnrecal inspect MODEL --images "
    "PATH` finds the one that fits)"
)
_POSITIONAL = "arr_"
_LOCAL_HEADER_BYTES = 30
_NPY_VERSION_2 = (2, 0)
_SHAPES_NAMED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One data file: arrays that share their first axis.

    Attributes:
        path: the file.
        samples: length of the first axis.
        read: returns the arrays, memory-mapped where the format allows it: an array, a tuple
            (unnamed arrays of an `.npz`) or a dict.
    """

    path: Path
    samples: int
    read: Callable[[], Array | tuple[Array, ...] | Mapping[str, Array]]


def find_files(paths: Iterable[Path]) -> FoundFiles:
    """Return the data files of some paths; those of a folder and its subfolders sorted by path.

    Raises:
        InputError: a file is missing or of another kind, or a folder has no data file.
    """
    every = list(paths)
    for path in every:
        if path.is_dir():
            if not find([path], _OPENERS).paths:
                raise InputError(f"the folder {path} has no {_kinds()} file; {_IMAGES_NEED}")
        elif path.suffix.lower() == ".onnx":
            raise InputError(f"{path} is a model: write the model first, then the data")
        elif path.suffix.lower() not in _OPENERS:
            raise InputError(
                f"{path} is not a {_kinds()} file: convert it first (numpy.save); {_IMAGES_NEED}"
            )
        elif not path.is_file():
            raise InputError(f"there is no data file {path}")
    return find(every, _OPENERS)


def open_table(path: Path) -> Table:
    """Return a data file, of which only the headers are read.

    Raises:
        InputError: the file is damaged, or its arrays do not share a first axis.
    """
    try:
        shapes, read = _OPENERS[path.suffix.lower()](path)
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, struct.error) as error:
        raise InputError(f"{path} cannot be read as {path.suffix}: {error}") from error
    if shapes and all(shape and shape[0] == 0 for shape in shapes):
        raise InputError(f"{path} has no samples: the shape of its array is {_some(shapes)}")
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(
            f"{path} has arrays of the shapes {_some(shapes)}; all need the same first axis, "
            "which counts samples"
        )
    return Table(path=path, samples=lengths.pop(), read=read)


def _some(shapes: list[tuple[int, ...]]) -> str:
    """Return a few different shapes as text."""
    different = sorted(set(shapes))
    named = ", ".join(map(str, different[:_SHAPES_NAMED]))
    return named if len(different) <= _SHAPES_NAMED else f"{named}, …"


Opened = tuple[list[tuple[int, ...]], Callable[[], Any]]


def _open_npy(path: Path) -> Opened:
    with path.open("rb") as file:
        header = _npy_header(file, "it")
    size = header.offset + math.prod(header.shape) * header.dtype.itemsize
    if size > path.stat().st_size:
        raise ValueError(f"it has {path.stat().st_size:,} of {size:,} bytes: copy it again")
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return [array.shape], lambda: array


def _open_npz(path: Path) -> Opened:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        headers = {}
        for name, info in members.items():
            with archive.open(info) as file:
                headers[name] = _npy_header(file, info.filename)
    if not headers:
        raise ValueError("it has no array")
    unnamed = [f"{_POSITIONAL}{place}" for place in range(len(headers))]

    def read() -> tuple[Array, ...] | Mapping[str, Array]:
        arrays = {name: _npz_array(path, members[name], headers[name]) for name in headers}
        if set(arrays) == set(unnamed):
            return tuple(arrays[name] for name in unnamed)
        return arrays

    return [header.shape for header in headers.values()], read


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int  # of the data, from the start of the file or member


def _npy_header(file: IO[bytes], name: str) -> _Header:
    magic = file.read(len(np.lib.format.MAGIC_PREFIX))
    if magic != np.lib.format.MAGIC_PREFIX:
        raise ValueError(f"{name} " + ("is not an array of numpy.save" if magic else "is empty"))
    file.seek(0)
    version = np.lib.format.read_magic(file)
    if version > _NPY_VERSION_2:
        raise ValueError(f"{name} has the format version {version}")
    read = (
        np.lib.format.read_array_header_2_0
        if version == _NPY_VERSION_2
        else np.lib.format.read_array_header_1_0
    )
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"{name} has Python objects, which are not unpickled: save numbers")
    return _Header(shape=shape, fortran=fortran, dtype=dtype, offset=file.tell())


def _npz_array(path: Path, info: zipfile.ZipInfo, header: _Header) -> Array:
    """Return a member, memory-mapped unless it is compressed."""
    if info.compress_type != zipfile.ZIP_STORED:
        with np.load(path, allow_pickle=False) as archive:
            array: Array = archive[info.filename.removesuffix(".npy")]
            return array
    with path.open("rb") as file:
        start = _member_start(file, info)
    return np.memmap(
        path,
        dtype=header.dtype,
        mode="r",
        offset=start + header.offset,
        shape=header.shape,
        order="F" if header.fortran else "C",
    )


def _member_start(file: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Return where a member's data begin, after its local header with name and extra field.

    Source: PKWARE APPNOTE 6.3, section 4.3.7.
    """
    file.seek(info.header_offset)
    name, extra = struct.unpack("<26xHH", file.read(_LOCAL_HEADER_BYTES))
    return info.header_offset + _LOCAL_HEADER_BYTES + int(name) + int(extra)


def _open_safetensors(path: Path) -> Opened:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > path.stat().st_size - 8:
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(length))
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not tensors:
        raise ValueError("it has no tensor")
    arrays = {name: _tensor(path, entry, 8 + length) for name, entry in tensors.items()}
    return [array.shape for array in arrays.values()], lambda: arrays


def _tensor(path: Path, entry: Mapping[str, Any], base: int) -> Array:
    shape = tuple(int(size) for size in entry["shape"])
    begin, end = entry["data_offsets"]
    dtype = _safetensors_dtype(entry["dtype"])
    if end - begin != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize:
        raise ValueError(f"its header is inconsistent: {dict(entry)}")
    return np.memmap(path, dtype=dtype, mode="r", offset=base + begin, shape=shape)


_SAFETENSORS_DTYPES = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}


def _safetensors_dtype(name: str) -> np.dtype[Any]:
    if name == "BF16":
        import ml_dtypes

        bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return bfloat16
    return np.dtype(_SAFETENSORS_DTYPES[name])


_OPENERS: Mapping[str, Callable[[Path], Opened]] = {
    ".npy": _open_npy,
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
}


def _kinds() -> str:
    *others, last = sorted(_OPENERS)
    return f"{', '.join(others)} or {last}"
