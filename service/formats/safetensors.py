"""The header of a safetensors file.

Layout: 8 bytes little-endian length of the header, the header as JSON, then the data. Each array's
`data_offsets` count from the start of the data; together they must cover it without gap or
overlap, as the format's own reader demands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from bn_ops.core.signature import ArrayHeader
from service.errors import BatchMalformedError
from service.formats.dtypes import SAFETENSORS, itemsize
from service.formats.layout import MAX_RANK, Layout, Segment

LENGTH_BYTES = 8
# A batch has a handful of inputs; the format's own limit of 100 MB would let a header alone fill
# the memory.
HEADER_LIMIT_BYTES = 1 << 18
SHORTEST_HEADER_BYTES = 2
MAX_BYTES = 1 << 60
# Twenty inputs or so. Longer ones can take a hundred times as long to read, and would fill the
# memory in which headers are kept.
SHORT_HEADER_BYTES = 4096


class SafetensorsHeader:
    """Collects the header's bytes; sans I/O."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: memoryview) -> tuple[Layout | None, int]:
        """Take bytes; return the layout once the header is whole, and how many bytes were used.

        Raises:
            BatchMalformedError: this is no safetensors header, or one that lies.
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
        if not SHORTEST_HEADER_BYTES <= length <= HEADER_LIMIT_BYTES:
            raise BatchMalformedError(
                f"the body begins with a safetensors header of {length} bytes, allowed are 2 to "
                f"{HEADER_LIMIT_BYTES}: is it a safetensors file?"
            )
        return length


def has_short_header(start: bytes | bytearray) -> bool:
    """Tell by a body's first bytes whether its header is one that takes no time to speak of."""
    return int.from_bytes(start[:LENGTH_BYTES], "little") <= SHORT_HEADER_BYTES


def parse(header: bytes) -> Layout:
    """Read and check a header's JSON.

    Raises:
        BatchMalformedError: it is not JSON, repeats a name, or its offsets do not fit its shapes.
    """
    return _remembered(header) if len(header) <= SHORT_HEADER_BYTES else _parse(header)


# The batches of a stream have the same header, all but the last.
@lru_cache(maxsize=64)
def _remembered(header: bytes) -> Layout:
    return _parse(header)


def _parse(header: bytes) -> Layout:
    table = _table(header)
    table.pop("__metadata__", None)
    entries = sorted((_entry(name, value) for name, value in table.items()), key=lambda e: e[0])
    end = 0
    for (begin, stop), segment, _ in entries:
        if begin != end:
            raise _bad(segment.name, f"begins at {begin}, the array before it ends at {end}")
        end = stop
    return Layout(
        headers=MappingProxyType({segment.name: array for _, segment, array in entries}),
        segments=tuple(segment for _, segment, _ in entries),
    )


def _table(header: bytes) -> dict[str, Any]:
    # The format's own reader wants the brace first; a lenient one would let a polyglot file
    # through.
    if not header.startswith(b"{"):
        raise BatchMalformedError("the safetensors header does not begin with '{'")
    try:
        return _as_object(
            json.loads(header, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        )
    except (ValueError, RecursionError) as error:
        raise BatchMalformedError("the safetensors header is not valid JSON") from error


def _as_object(value: object) -> dict[str, Any]:
    assert isinstance(value, dict)  # the text begins with a brace
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise BatchMalformedError("the safetensors header has a key twice")
    return table


def _refuse_constant(name: str) -> None:
    raise BatchMalformedError(f"the safetensors header holds {name}, which is not JSON")


def _entry(name: str, value: object) -> tuple[tuple[int, int], Segment, ArrayHeader]:
    _check_name(name)
    if not isinstance(value, Mapping) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _bad(name, "needs exactly dtype, shape and data_offsets")
    tag = value["dtype"]
    if not isinstance(tag, str) or tag not in SAFETENSORS:
        raise _bad(name, f"has an element type that is not taken; known are {sorted(SAFETENSORS)}")
    dtype = SAFETENSORS[tag]
    shape = _integers(name, "shape", value["shape"])
    offsets = _integers(name, "data_offsets", value["data_offsets"])
    if len(shape) > MAX_RANK:  # before they are multiplied
        raise _bad(name, f"has {len(shape)} axes, allowed are {MAX_RANK}")
    length = math.prod(shape) * itemsize(dtype)
    fits = len(offsets) == 2 and offsets[1] - offsets[0] == length  # noqa: PLR2004 - begin, end
    if not fits:
        raise _bad(name, f"has offsets that do not fit its shape ({length} bytes)")
    segment = Segment(name=name, dtype=dtype, length=length)
    return (offsets[0], offsets[1]), segment, ArrayHeader(dtype=dtype, shape=shape)


def _check_name(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise BatchMalformedError("the safetensors header has a name that is no text") from error


def _integers(name: str, member: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(
        type(item) is int and 0 <= item <= MAX_BYTES for item in value
    ):
        raise _bad(name, f"has a {member} that is no list of sizes")
    return tuple(value)


def _bad(name: str, fault: str) -> BatchMalformedError:
    return BatchMalformedError(f"safetensors array {name!r} {fault}", input=name)
