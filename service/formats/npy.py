"""The header of a .npy file, for models with one input.

Layout: magic, version, length, then a Python dict literal with exactly `descr`, `fortran_order` and
`shape`. The literal is parsed, never evaluated; object arrays (which are pickles) are refused
by name. Fortran order is taken: the reader in the worker restores it, and neither the shape nor
the search for NaN depends on it.
"""

from __future__ import annotations

import ast
import math
import re
import warnings

from bn_ops.core.signature import ArrayHeader
from service.errors import BatchMalformedError
from service.formats.dtypes import KNOWN, itemsize
from service.formats.layout import MAX_RANK, Layout, Segment

MAGIC = b"\x93NUMPY"
# numpy's own limit for untrusted headers.
HEADER_LIMIT_BYTES = 10_000
MAX_BYTES = 1 << 60
_LENGTH_WIDTH = {1: 2, 2: 4, 3: 4}
_PREFIX = len(MAGIC) + 2
_DESCR = re.compile(r"([<>|=])([biuf])([1248])")
_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float"}


class NpyHeader:
    """Collects the header's bytes; sans I/O."""

    def __init__(self, names: tuple[str, ...]) -> None:
        """Begin; the one array belongs to the model's one input.

        Raises:
            BatchMalformedError: the model has several inputs, so a nameless array fits none of
                them.
        """
        if len(names) != 1:
            raise BatchMalformedError(
                f"an npy body holds one array, the model takes {list(names)}: send safetensors"
            )
        self._name = names[0]
        self._buffer = bytearray()

    def feed(self, data: memoryview) -> tuple[Layout | None, int]:
        """Take bytes; return the layout once the header is whole, and how many bytes were used.

        Raises:
            BatchMalformedError: this is no npy header, or one that lies.
        """
        before = len(self._buffer)
        while (wanted := self._wanted()) > len(self._buffer):
            offset = len(self._buffer) - before
            piece = data[offset : offset + wanted - len(self._buffer)]
            if not piece:
                return None, offset
            self._buffer += piece
        return self._parse(), len(self._buffer) - before

    def _wanted(self) -> int:
        if len(self._buffer) < _PREFIX:
            return _PREFIX
        begin = _PREFIX + self._width()
        if len(self._buffer) < begin:
            return begin
        length = int.from_bytes(self._buffer[_PREFIX:begin], "little")
        if length > HEADER_LIMIT_BYTES:
            raise BatchMalformedError(
                f"the npy header has {length} bytes, allowed are {HEADER_LIMIT_BYTES}"
            )
        return begin + length

    def _width(self) -> int:
        if self._buffer[: len(MAGIC)] != MAGIC:
            raise BatchMalformedError("the body does not begin like a .npy file")
        width = _LENGTH_WIDTH.get(self._buffer[len(MAGIC)])
        if width is None:
            raise BatchMalformedError("the npy version is none of 1.0, 2.0 and 3.0")
        return width

    def _parse(self) -> Layout:
        table = _literal(bytes(self._buffer[_PREFIX + self._width() :]))
        if set(table) != {"descr", "fortran_order", "shape"}:
            raise BatchMalformedError("the npy header needs exactly descr, fortran_order and shape")
        if not isinstance(table["fortran_order"], bool):
            raise BatchMalformedError("the npy header has a fortran_order that is no truth value")
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
            warnings.simplefilter(
                "ignore"
            )  # an odd escape in a hostile header is no affair of the log
            tree = ast.parse(header.decode("utf-8").strip(), mode="eval").body
            table = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise BatchMalformedError("the npy header is no dict literal") from error
    if not isinstance(tree, ast.Dict) or not all(isinstance(key, str) for key in table):
        raise BatchMalformedError("the npy header is no dict literal")
    if len(tree.keys) != len(table):
        raise BatchMalformedError("the npy header has a key twice")
    return dict(table)


def _dtype(descr: object) -> tuple[str, bool]:
    if isinstance(descr, str) and "O" in descr:
        raise BatchMalformedError(
            "the npy file holds Python objects (a pickle), which are never read: "
            "convert it with array.astype(numpy.float32) before saving"
        )
    match = _DESCR.fullmatch(descr) if isinstance(descr, str) else None
    if match is not None:
        order, kind, size = match.groups()
        name = "bool" if kind == "b" else f"{_KINDS[kind]}{int(size) * 8}"
        if name in KNOWN and itemsize(name) == int(size):
            return name, order == ">"
    raise BatchMalformedError(
        f"the npy element type {str(descr)[:40]!r} is not taken; bfloat16 travels in safetensors"
    )


def _shape(value: object) -> tuple[int, ...]:
    if (
        not isinstance(value, tuple)
        or len(value) > MAX_RANK
        or not all(type(item) is int and 0 <= item <= MAX_BYTES for item in value)
    ):
        raise BatchMalformedError("the npy header has a shape that is no tuple of sizes")
    return value
