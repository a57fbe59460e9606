"""Element types: names in each format and in numpy, sizes, and the search for NaN and Inf."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np

# numpy does not know bfloat16: two bytes, exponent in bits 7 to 14.
BFLOAT16 = "bfloat16"
_BFLOAT16_EXPONENT = np.uint16(0x7F80)

SAFETENSORS: Mapping[str, str] = MappingProxyType(
    {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": BFLOAT16,
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
    }
)

KNOWN = frozenset(SAFETENSORS.values())
FLOATING = frozenset({"float64", "float32", "float16", BFLOAT16})


def itemsize(dtype: str) -> int:
    """Return the size of one element in bytes."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def all_finite(data: memoryview, dtype: str, *, big_endian: bool = False) -> bool:
    """Return whether raw bytes of whole elements contain neither NaN nor Inf."""
    if dtype not in FLOATING:
        return True
    order: Literal[">", "<"] = ">" if big_endian else "<"
    if dtype == BFLOAT16:
        bits = np.frombuffer(data, dtype=np.dtype(np.uint16).newbyteorder(order))
        return not bool(((bits & _BFLOAT16_EXPONENT) == _BFLOAT16_EXPONENT).any())
    values = np.frombuffer(data, dtype=np.dtype(dtype).newbyteorder(order))
    return bool(np.isfinite(values).all())
