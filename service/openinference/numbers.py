"""Tensor data written as JSON → the bytes of an array, little-endian, row-major.

Nothing is rounded or cut to fit except a decimal number to the nearest value of its float type.
NaN and Inf pass; whoever checks the batch refuses them by the input's name.
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
        shape: what the request says.
        data: nested lists in that shape, or one flat list in row-major order.

    Raises:
        BatchMalformedError: the data is ragged, of another shape, no numbers, or does not fit the
            element type.
    """
    if datatype in BINARY_ONLY:
        raise unfit(name, f"is {datatype}, which JSON cannot carry: send it as binary data")
    if not isinstance(data, list):
        raise unfit(name, "has no list of `data`")
    try:
        found = np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise unfit(name, "has ragged data, or numbers beyond 64 bits") from error
    if found.shape not in (shape, (math.prod(shape),)):
        raise unfit(name, f"says shape {list(shape)}, its data has {list(found.shape)}")
    dtype = np.dtype(NUMPY[datatype])
    if dtype == np.uint64 and found.dtype.kind == "f":
        found = _large(data, found)
    return _CASTS[dtype.kind](name, found, dtype).astype(dtype.newbyteorder("<")).tobytes()


def _large(data: object, found: Numbers) -> Numbers:
    """Return integers on both sides of 2⁶³, for which numpy has guessed float64, as they are."""
    exact = np.asarray(data, dtype=object)
    if all(type(value) is int and 0 <= value < 1 << 64 for value in exact.flat):
        return exact.astype(np.uint64)
    return found


def _floating(name: str, found: Numbers, dtype: np.dtype[Any]) -> Numbers:
    if found.dtype.kind not in "fiu":
        raise unfit(name, f"holds what is no number; {dtype} is wanted")
    with np.errstate(over="ignore"):  # becomes Inf, which is refused by name
        return found.astype(dtype)


def _integer(name: str, found: Numbers, dtype: np.dtype[Any]) -> Numbers:
    if found.dtype.kind not in "iu":
        raise unfit(name, f"holds what is no 64-bit integer; {dtype} is wanted")
    bounds = np.iinfo(dtype)
    if found.size and not (bounds.min <= int(found.min()) and int(found.max()) <= bounds.max):
        raise unfit(name, f"holds integers beyond {dtype}")
    return found


def _truth(name: str, found: Numbers, dtype: np.dtype[Any]) -> Numbers:
    if found.dtype.kind == "b":
        return found
    if found.dtype.kind in "iu" and bool(((found == 0) | (found == 1)).all()):
        return found.astype(dtype)
    raise unfit(name, "holds what is no truth value")


_CASTS: Mapping[str, Callable[[str, Numbers, np.dtype[Any]], Numbers]] = MappingProxyType(
    {"f": _floating, "i": _integer, "u": _integer, "b": _truth}
)
