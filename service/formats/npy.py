"""`.npy` files, for models with one input, and `.npz` archives of one `.npy` file for each input.

Layout: magic, version, length, then a Python dict literal with exactly the keys `descr`,
`fortran_order` and `shape`. The literal is parsed, never evaluated; object arrays (which are
pickles) are refused. Fortran order is accepted: the reader in the worker restores it, and neither
the shape nor the search for NaN depends on it. In an archive, each header is checked in the same
way and compared with the archive's directory before numpy allocates memory.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import ArrayHeader
from service.errors import BatchMalformedError
from service.formats import zips
from service.formats.dtypes import KNOWN, itemsize
from service.formats.layout import MAX_RANK, Layout, Segment
from service.formats.members import Member, refusal, shown

MAGIC = b"\x93NUMPY"
# numpy's own limit for untrusted headers.
HEADER_LIMIT_BYTES = 10_000
MAX_BYTES = 1 << 60
_LENGTH_WIDTH = {1: 2, 2: 4, 3: 4}
_PREFIX = len(MAGIC) + 2
_DESCR = re.compile(r"([<>|=])([biuf])([1248])")
_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float"}
_SUFFIX = ".npy"
# numpy.savez gives this prefix to arrays that have no name.
_UNNAMED = "arr_"

Arrays = dict[str, NDArray[Any]]


class NpyHeader:
    """Collects the header's bytes; sans I/O."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Start a header; the array belongs to the model's only input.

        Raises:
            BatchMalformedError: the model has several inputs, and the array has no name.
        """
        if len(names) != 1:
            raise BatchMalformedError(
                f"an npy body holds one array, the model has the inputs {list(names)}: "
                "send safetensors"
            )
        self._name = names[0]
        self._buffer = bytearray()

    def feed(self, data: memoryview) -> tuple[Layout | None, int]:
        """Read bytes; return the layout once the header is complete, and the bytes used.

        Raises:
            BatchMalformedError: the header is malformed or not supported.
        """
        before = len(self._buffer)
        while (wanted := self._wanted()) > len(self._buffer):
            offset = len(self._buffer) - before
            piece = data[offset : offset + wanted - len(self._buffer)]
            if not piece:
                return None, offset
            self._buffer += piece
        return self._parse(), len(self._buffer) - before

    def is_quick(self, start: bytes | bytearray) -> bool:
        """Return True: the limit keeps every header short."""
        del start
        return True

    def _wanted(self) -> int:
        if len(self._buffer) < _PREFIX:
            return _PREFIX
        begin = _PREFIX + self._width()
        if len(self._buffer) < begin:
            return begin
        length = int.from_bytes(self._buffer[_PREFIX:begin], "little")
        if length > HEADER_LIMIT_BYTES:
            raise BatchMalformedError(
                f"the npy header has {length} bytes, the limit is {HEADER_LIMIT_BYTES}"
            )
        return begin + length

    def _width(self) -> int:
        if self._buffer[: len(MAGIC)] != MAGIC:
            raise BatchMalformedError("the body does not start with the magic bytes of a .npy file")
        width = _LENGTH_WIDTH.get(self._buffer[len(MAGIC)])
        if width is None:
            raise BatchMalformedError("the npy version is not 1.0, 2.0 or 3.0")
        return width

    def _parse(self) -> Layout:
        table = _literal(bytes(self._buffer[_PREFIX + self._width() :]))
        if set(table) != {"descr", "fortran_order", "shape"}:
            raise BatchMalformedError(
                "the npy header must have exactly the keys descr, fortran_order and shape"
            )
        if not isinstance(table["fortran_order"], bool):
            raise BatchMalformedError("fortran_order in the npy header is not a boolean")
        dtype, big_endian = _dtype(table["descr"])
        shape = _shape(table["shape"])
        length = math.prod(shape) * itemsize(dtype)
        segment = Segment(name=self._name, dtype=dtype, length=length, big_endian=big_endian)
        return Layout(
            headers={self._name: ArrayHeader(dtype=dtype, shape=shape)}, segments=(segment,)
        )


def _literal(header: bytes) -> dict[str, object]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in the literal of an untrusted header
            tree = ast.parse(header.decode("utf-8").strip(), mode="eval").body
            table = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise BatchMalformedError("the npy header is not a dict literal") from error
    if not isinstance(tree, ast.Dict) or not all(isinstance(key, str) for key in table):
        raise BatchMalformedError("the npy header is not a dict literal")
    if len(tree.keys) != len(table):
        raise BatchMalformedError("the npy header has a duplicate key")
    return dict(table)


def _dtype(descr: object) -> tuple[str, bool]:
    if isinstance(descr, str) and "O" in descr:
        raise BatchMalformedError(
            "the npy file holds Python objects (a pickle), which are never loaded: "
            "convert the array with array.astype(numpy.float32) before saving"
        )
    match = _DESCR.fullmatch(descr) if isinstance(descr, str) else None
    if match is not None:
        order, kind, size = match.groups()
        name = "bool" if kind == "b" else f"{_KINDS[kind]}{int(size) * 8}"
        if name in KNOWN and itemsize(name) == int(size):
            return name, order == ">"
    raise BatchMalformedError(
        f"the npy element type {str(descr)[:40]!r} is not supported; send bfloat16 as safetensors"
    )


def _shape(value: object) -> tuple[int, ...]:
    if (
        not isinstance(value, tuple)
        or len(value) > MAX_RANK
        or not all(type(item) is int and 0 <= item <= MAX_BYTES for item in value)
    ):
        raise BatchMalformedError("shape in the npy header is not a tuple of sizes")
    return value


def read_npy(file: IO[bytes]) -> NDArray[Any]:
    """Return the array of a stored file, in native byte order; only for a worker."""
    array: NDArray[Any] = np.load(file, allow_pickle=False)
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def read_npz(file: IO[bytes], inputs: Sequence[str], *, limit_bytes: int) -> Arrays:
    """Return the arrays of an archive by input name; only for a worker.

    Unnamed arrays are assigned in the order of the inputs.

    Raises:
        BatchMalformedError: not such an archive, or a member that is not a plain array.
        BatchUnpackedTooLargeError: the unpacked archive exceeds the limits.
    """
    with zips.reading():
        members = {_stem(one): one for one in zips.members(file, limit_bytes=limit_bytes)}
        sizes = {name: _header_bytes(member) for name, member in members.items()}
        arrays = {name: _member_array(members[name], sizes[name]) for name in members}
    return _named(arrays, inputs)


def _named(arrays: Mapping[str, NDArray[Any]], inputs: Sequence[str]) -> Arrays:
    unnamed = [f"{_UNNAMED}{place}" for place in range(len(arrays))]
    if set(arrays) == set(unnamed) != set(inputs) and len(arrays) == len(inputs):
        return dict(zip(inputs, (arrays[name] for name in unnamed), strict=True))
    return dict(arrays)


def _stem(member: Member) -> str:
    if not member.name.endswith(_SUFFIX):
        raise refusal(member.name, "is not an .npy file; an .npz contains nothing else")
    return member.name.removesuffix(_SUFFIX)


def _header_bytes(member: Member) -> int:
    """Check a member's header and return its length."""
    reader = NpyHeader((member.name,))
    used = 0
    with member.open() as stream:
        layout = None
        while layout is None:
            piece = stream.read(HEADER_LIMIT_BYTES)
            if not piece:
                raise refusal(member.name, "ends inside its header")
            try:
                layout, taken = reader.feed(memoryview(piece))
            except BatchMalformedError as error:
                text = f"the member {shown(member.name)}: {error.message}"
                raise BatchMalformedError(text, member=shown(member.name)) from error
            used += taken
    announced = sum(segment.length for segment in layout.segments)
    if used + announced != member.size:
        fault = f"has {member.size} bytes, its header announces {used + announced}"
        raise refusal(member.name, fault)
    return used


def _member_array(member: Member, header_bytes: int) -> NDArray[Any]:
    with member.open() as stream:
        array: NDArray[Any] = np.lib.format.read_array(
            stream, allow_pickle=False, max_header_size=header_bytes
        )
        if stream.read(1):  # reads to the end, where zipfile checks the CRC
            raise refusal(member.name, "continues after its data")
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
