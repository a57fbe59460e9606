"""Casting exact numbers to the element type of a file, once, and when that is not allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bn_ops.folding.affine import Float64Array

__all__ = ["FLOATS", "CastFault", "cast", "cast_fault"]

_SMALLEST_NORMAL: Mapping[ir.DataType, float] = {
    ir.DataType.FLOAT16: 2.0**-14,
    ir.DataType.BFLOAT16: 2.0**-126,
    ir.DataType.FLOAT: 2.0**-126,
    ir.DataType.DOUBLE: 2.0**-1022,
}

FLOATS = frozenset(_SMALLEST_NORMAL)
"""Element types in which weights may be folded."""

CastFault = Literal["overflow", "underflow"]


def cast(array: Float64Array, dtype: ir.DataType) -> NDArray[np.generic]:
    """Round to the nearest number of the element type; too large ones become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(array.astype(dtype.numpy()))


def cast_fault(array: Float64Array, dtype: ir.DataType) -> CastFault | None:
    """Tell whether the cast would overflow anywhere, or lose the tensor as a whole.

    Single values below the smallest normal number are common (dead channels) and harmless: their
    error is absolute and far below the other values' rounding. Only where the largest value of the
    tensor lies there is the tensor as a whole worth less than its element type promises.
    """
    if array.size == 0:
        return None
    largest = float(np.max(np.abs(array)))
    if not np.isfinite(largest) or not np.all(np.isfinite(cast(array, dtype).astype(np.float64))):
        return "overflow"
    return "underflow" if 0.0 < largest < _SMALLEST_NORMAL[dtype] else None
