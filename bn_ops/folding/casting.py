"""Cast exact numbers to the element type of a file, and detect casts that lose too much."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bn_ops.folding.affine import Float64Array

__all__ = ["FLOATS", "CastFault", "cast", "cast_fault"]

_MIN_NORMAL: Mapping[ir.DataType, float] = {
    ir.DataType.FLOAT16: 2.0**-14,
    ir.DataType.BFLOAT16: 2.0**-126,
    ir.DataType.FLOAT: 2.0**-126,
    ir.DataType.DOUBLE: 2.0**-1022,
}

FLOATS = frozenset(_MIN_NORMAL)
"""Element types in which weights may be folded."""

CastFault = Literal["overflow", "underflow"]


def cast(array: Float64Array, dtype: ir.DataType) -> NDArray[np.generic]:
    """Round to the nearest number of the element type; too large numbers become infinite."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(array.astype(dtype.numpy()))


def cast_fault(array: Float64Array, dtype: ir.DataType) -> CastFault | None:
    """Return whether the cast would overflow anywhere, or underflow for the tensor as a whole.

    Single values below the smallest normal number are common (dead channels) and harmless: their
    absolute error is far below the rounding of the other values. Only if the largest value of the
    tensor is below it does the tensor as a whole lose precision.
    """
    if array.size == 0:
        return None
    largest = float(np.max(np.abs(array)))
    if not np.isfinite(largest) or not np.all(np.isfinite(cast(array, dtype).astype(np.float64))):
        return "overflow"
    return "underflow" if 0.0 < largest < _MIN_NORMAL[dtype] else None
