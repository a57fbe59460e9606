"""What a header describes: the position of each array in the data; JSON objects, model inputs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bn_ops.core.signature import ArrayHeader, TensorInfo
from service.errors import RequestInvalidError

MAX_RANK = 32
"""Largest number of axes of an array: numpy's limit when its file format was designed. Networks
have inputs with up to five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The bytes of one array.

    Attributes:
        name: the input's name.
        dtype: numpy's name of the element type.
        length: number of bytes.
        big_endian: whether the elements are stored most significant byte first.
    """

    name: str
    dtype: str
    length: int
    big_endian: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A checked header.

    Attributes:
        headers: element type and shape of each array, by name.
        segments: the arrays' bytes in the order of the file; together they are all of the data.
    """

    headers: Mapping[str, ArrayHeader]
    segments: tuple[Segment, ...]


class HeaderReader(Protocol):
    """Collects the bytes of a header; sans I/O."""

    def feed(self, data: memoryview) -> tuple[Layout | None, int]:
        """Read bytes; return the layout once the header is complete, and the bytes used."""
        ...

    def is_quick(self, start: bytes | bytearray) -> bool:
        """Return whether a body that starts like this has a header that is parsed in no time."""
        ...


def json_object(text: str | bytes | bytearray, what: str) -> dict[str, Any]:
    """Return a JSON object that a client sent.

    Args:
        text: the JSON text.
        what: its name in messages, such as "the request".

    Raises:
        RequestInvalidError: it is not one.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestInvalidError(f"{what} is not valid JSON") from error
    if not isinstance(found, dict):
        raise RequestInvalidError(f"{what} is not a JSON object")
    return found


def inputs_from_json(table: Iterable[Mapping[str, Any]]) -> tuple[TensorInfo, ...]:
    """Return a model's inputs from their JSON form, as the ledger and the workers exchange it."""
    return tuple(
        TensorInfo(
            name=item["name"],
            dtype=item["dtype"],
            shape=None if item["shape"] is None else tuple(item["shape"]),
        )
        for item in table
    )
