"""Conversion of tensor data in JSON to the bytes of an array, little-endian and row-major.

No value is changed, except that a decimal number is rounded to the nearest value of its float type.
NaN and Inf are converted; the check of the batch rejects them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.openinference.datatypes import BINARY_ONLY, NUMPY
from service.openinference.faults import unfit

Numbers = NDArray[Any]


def to_bytes(name: str, datatype: str, shape: tuple[int, ...], data: object) -> bytes:
    """Return the bytes of one tensor.

    Args:
        name: the input's name, for messages.
        datatype: the protocol's element type.
        shape: the announced shape.
        data: nested lists in that shape, or one flat list in row-major order.

    Raises:
        BatchMalformedError: the data is ragged, has another shape, contains something other than
            numbers, or does not fit the element type.
    """
    if datatype in BINARY_ONLY:
        raise unfit(name, f"has the datatype {datatype}, which has no JSON form: send binary data")
    if not isinstance(data, list):
        raise unfit(name, "has no list `data`")
    try:
        found = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise unfit(name, "has ragged data, or numbers of more than 64 bits") from error
    if found.shape not in (shape, (math.prod(shape),)):
        raise unfit(name, f"has the shape {list(shape)}, its data has {list(found.shape)}")
    dtype = np.dtype(NUMPY[datatype])
    if dtype == np.uint64 and found.dtype.kind == "f":
        found = _large(data, found)
    return _CASTS[dtype.kind](name, found, dtype).astype(dtype.newbyteorder("<")).tobytes()


def _large(data: object, found: Numbers) -> Numbers:
    """Return integers below and above 2⁶³ exactly; numpy converts such a mixture to float64."""
    exact = np.asarray(data, dtype=object)
    if all(type(value) is int and 0 <= value < 1 << 64 for value in exact.flat):
        return exact.astype(np.uint64)
    return found


def _floating(name: str, found: Numbers, dtype: np.dtype[Any]) -> Numbers:
    if found.dtype.kind not in "fiu":
        raise unfit(name, f"contains an element that is not a number; expected {dtype}")
    with np.errstate(over="ignore"):  # becomes Inf, which is rejected later
        return found.astype(dtype)


def _integer(name: str, found: Numbers, dtype: np.dtype[Any]) -> Numbers:
    if found.dtype.kind not in "iu":
        raise unfit(name, f"contains an element that is not a 64-bit integer; expected {dtype}")
    bounds = np.iinfo(dtype)
    if found.size and not (bounds.min <= int(found.min()) and int(found.max()) <= bounds.max):
        raise unfit(name, f"contains integers out of range for {dtype}")
    return found


def _boolean(name: str, found: Numbers, dtype: np.dtype[Any]) -> Numbers:
    if found.dtype.kind == "b":
        return found
    if found.dtype.kind in "iu" and bool(((found == 0) | (found == 1)).all()):
        return found.astype(dtype)
    raise unfit(name, "contains an element that is not a boolean")


_CASTS: Mapping[str, Callable[[str, Numbers, np.dtype[Any]], Numbers]] = MappingProxyType(
    {"f": _floating, "i": _integer, "u": _integer, "b": _boolean}
)
