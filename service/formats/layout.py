"""What a header says: where each array lies in the data that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bn_ops.core.signature import ArrayHeader

MAX_RANK = 32
"""Most axes of an array: as many as numpy took when its file format was made; networks have five.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The bytes of one array.

    Attributes:
        name: the input's name.
        dtype: numpy's name of the element type.
        length: bytes.
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
        headers: element type and shape by name.
        segments: the arrays' bytes in the order in which they come; together they are all the data.
    """

    headers: Mapping[str, ArrayHeader]
    segments: tuple[Segment, ...]
