"""Safetensors files.

Layout: the length of the header (8 bytes, little-endian), the header as JSON, then the data. Each
array's `data_offsets` are relative to the start of the data; together they must cover it without
gaps or overlaps, as the format's own reader requires.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import IO, Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import ArrayHeader
from service.errors import BatchMalformedError
from service.formats.dtypes import BFLOAT16, SAFETENSORS, itemsize
from service.formats.layout import MAX_RANK, Layout, Segment

LENGTH_BYTES = 8
# A batch has a handful of inputs; the format's own limit of 100 MB would allow a header to fill the
# memory.
HEADER_LIMIT_BYTES = 1 << 18
MIN_HEADER_BYTES = 2
MAX_BYTES = 1 << 60
# About twenty inputs. Longer headers can take a hundred times as long to parse, and would fill the
# cache of headers.
SHORT_HEADER_BYTES = 4096


class SafetensorsHeader:
    """Collects the header's bytes; sans I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: memoryview) -> tuple[Layout | None, int]:
        """Read bytes; return the layout once the header is complete, and the bytes used.

        Raises:
            BatchMalformedError: the header is malformed or not supported.
        """
        before = len(self._buffer)
        self._take(data, LENGTH_BYTES)
        if len(self._buffer) < LENGTH_BYTES:
            return None, len(self._buffer) - before
        end = LENGTH_BYTES + self._length()
        self._take(data[len(self._buffer) - before :], end)
        used = len(self._buffer) - before
        if len(self._buffer) < end:
            return None, used
        return parse(bytes(self._buffer[LENGTH_BYTES:])), used

    def _take(self, data: memoryview, until: int) -> None:
        self._buffer += data[: max(0, until - len(self._buffer))]

    def _length(self) -> int:
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "little")
        if not MIN_HEADER_BYTES <= length <= HEADER_LIMIT_BYTES:
            raise BatchMalformedError(
                f"the body starts with a safetensors header of {length} bytes, the limits are "
                f"{MIN_HEADER_BYTES} and {HEADER_LIMIT_BYTES}: is it a safetensors file?"
            )
        return length

    def is_quick(self, start: bytes | bytearray) -> bool:
        """Return whether the header of a body that starts like this is short."""
        return int.from_bytes(start[:LENGTH_BYTES], "little") <= SHORT_HEADER_BYTES


def parse(header: bytes) -> Layout:
    """Return the layout that a header's JSON describes.

    Raises:
        BatchMalformedError: it is not JSON, repeats a name, or offsets and shapes do not match.
    """
    return _parse_cached(header) if len(header) <= SHORT_HEADER_BYTES else _parse(header)


# All batches of a stream but the last usually have the same header.
@lru_cache(maxsize=64)
def _parse_cached(header: bytes) -> Layout:
    return _parse(header)


def _parse(header: bytes) -> Layout:
    table = _table(header)
    table.pop("__metadata__", None)
    entries = sorted((_entry(name, value) for name, value in table.items()), key=lambda e: e[0])
    end = 0
    for (begin, stop), segment, _ in entries:
        if begin != end:
            raise _malformed(segment.name, f"starts at {begin}, the previous array ends at {end}")
        end = stop
    return Layout(
        headers=MappingProxyType({segment.name: array for _, segment, array in entries}),
        segments=tuple(segment for _, segment, _ in entries),
    )


def _table(header: bytes) -> dict[str, Any]:
    # The format's own reader requires this; a lenient check would accept polyglot files.
    if not header.startswith(b"{"):
        raise BatchMalformedError("the safetensors header does not start with '{'")
    try:
        return _as_object(
            json.loads(header, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        )
    except (ValueError, RecursionError) as error:
        raise BatchMalformedError("the safetensors header is not valid JSON") from error


def _as_object(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)  # the text starts with a brace
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise BatchMalformedError("the safetensors header has a duplicate key")
    return table


def _refuse_constant(name: str) -> None:
    raise BatchMalformedError(f"the safetensors header contains {name}, which is not JSON")


def _entry(name: str, value: object) -> tuple[tuple[int, int], Segment, ArrayHeader]:
    _check_name(name)
    if not isinstance(value, Mapping) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(name, "must have exactly the keys dtype, shape and data_offsets")
    tag = value["dtype"]
    if not isinstance(tag, str) or tag not in SAFETENSORS:
        raise _malformed(name, f"has an unsupported dtype; supported are {sorted(SAFETENSORS)}")
    dtype = SAFETENSORS[tag]
    shape = _integers(name, "shape", value["shape"])
    offsets = _integers(name, "data_offsets", value["data_offsets"])
    if len(shape) > MAX_RANK:  # before they are multiplied
        raise _malformed(name, f"has {len(shape)} axes, the limit is {MAX_RANK}")
    length = math.prod(shape) * itemsize(dtype)
    fits = len(offsets) == 2 and offsets[1] - offsets[0] == length  # noqa: PLR2004 - start, end
    if not fits:
        raise _malformed(name, f"has offsets that do not match its shape ({length} bytes)")
    segment = Segment(name=name, dtype=dtype, length=length)
    return (offsets[0], offsets[1]), segment, ArrayHeader(dtype=dtype, shape=shape)


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BatchMalformedError(
            "the safetensors header has a name with invalid Unicode"
        ) from error


def _integers(name: str, member: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(
        type(item) is int and 0 <= item <= MAX_BYTES for item in value
    ):
        raise _malformed(name, f"has a {member} that is not a list of sizes")
    return tuple(value)


def _malformed(name: str, fault: str) -> BatchMalformedError:
    return BatchMalformedError(f"safetensors array {name!r} {fault}", input=name)


def read_safetensors(file: IO[bytes]) -> dict[str, NDArray[Any]]:
    """Return the arrays of a stored file; only for a worker.

    Each array is read into memory of its own: the format does not align them, the runtime needs
    that.

    Raises:
        BatchMalformedError: the file ends inside its header.
    """
    reader = SafetensorsHeader()
    layout = None
    begin = 0
    while layout is None:
        chunk = file.read(io.DEFAULT_BUFFER_SIZE)
        if not chunk:
            raise BatchMalformedError("the stored batch ends inside its header")
        layout, used = reader.feed(memoryview(chunk))
        begin += used
    file.seek(begin)
    arrays: dict[str, NDArray[Any]] = {}
    for segment in layout.segments:
        header = layout.headers[segment.name]
        dtype = np.dtype(ml_dtypes.bfloat16 if segment.dtype == BFLOAT16 else segment.dtype)
        content = file.read(segment.length)
        arrays[segment.name] = np.frombuffer(bytearray(content), dtype).reshape(header.shape)
    return arrays
