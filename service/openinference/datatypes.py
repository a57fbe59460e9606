"""The element types of the protocol, their names in numpy and safetensors, and their JSON form.

Source: Open Inference Protocol, "Tensor Data Types"; BF16 and its binary form are Triton's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BatchMalformedError
from service.formats.dtypes import BFLOAT16, SAFETENSORS

# The error for one input of a request.


def unfit(name: str, fault: str, **details: Any) -> BatchMalformedError:
    """Return the error for an input that is malformed or contradicts its description."""
    return BatchMalformedError(f"input {name!r} {fault}", input=name, **details)


NUMPY: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool",
        "UINT8": "uint8",
        "UINT16": "uint16",
        "UINT32": "uint32",
        "UINT64": "uint64",
        "INT8": "int8",
        "INT16": "int16",
        "INT32": "int32",
        "INT64": "int64",
        "FP16": "float16",
        "BF16": BFLOAT16,
        "FP32": "float32",
        "FP64": "float64",
    }
)
Numbers = NDArray[Any]

IMAGES = "BYTES"
"""The type whose elements are encoded images in this server."""
# The protocol allows these as binary data only.
BINARY_ONLY = frozenset({"FP16", "BF16"})
_OIP = {dtype: name for name, dtype in NUMPY.items()}
_TAGS = {dtype: tag for tag, dtype in SAFETENSORS.items()}


def from_numpy(dtype: str) -> str:
    """Return the protocol's name of a numpy element type."""
    return _OIP.get(dtype, IMAGES)


def safetensors_tag(datatype: str) -> str:
    """Return the safetensors name of an element type of the protocol."""
    return _TAGS[NUMPY[datatype]]


def require_known(name: str, datatype: object, *, images: bool) -> str:
    """Return a supported datatype.

    Args:
        name: the input's name, for messages.
        datatype: the value in the request.
        images: whether the recalibration takes images, for messages.

    Raises:
        BatchMalformedError: the datatype is unknown; the message lists the supported ones.
    """
    if isinstance(datatype, str) and (datatype in NUMPY or datatype == IMAGES):
        return datatype
    accepted = [*NUMPY, IMAGES] if images else list(NUMPY)
    raise unfit(
        name,
        f"has the datatype {str(datatype)[:40]!r}; supported are {accepted}",
        accepted=accepted,
    )


def to_bytes(name: str, datatype: str, shape: tuple[int, ...], data: object) -> bytes:
    """Return the bytes of one tensor from its JSON form, little-endian and row-major.

    No value is changed, except that a decimal number is rounded to the nearest value of its float
    type. NaN and Inf are converted; the check of the batch rejects them.

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
