"""Measure how much a model amplifies rounding, by perturbing every number by one unit.

Storing a number in float32 changes it by up to half a unit in the last place, and so does every
operation on it. Backward error analysis (Source: N. J. Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed. 2002, section 1.5) treats the result of a computation with rounding as the exact
result for slightly perturbed data. No implementation of the same function in that element type can
therefore be expected to be closer than the effect of perturbing the data by one unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from bn_ops.core.signature import is_floating
from bn_ops.onnx_files.large_models import bare_copy

if TYPE_CHECKING:
    from bn_ops.core.signature import Batch

__all__ = ["perturb_batch", "perturb_model"]

Array = NDArray[np.generic]

_ARITHMETIC = frozenset(
    {"Add", "BatchNormalization", "Conv", "ConvTranspose", "Div", "Gemm", "MatMul", "Mul", "Sub"}
)
"""Operators whose stored operands are weights. Operands of others may be sizes, such as the scales
of a Resize, where the last digit may decide about a whole row."""

_BITS: dict[int, type[np.unsignedinteger]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def perturb_model(model: onnx.ModelProto, generator: np.random.Generator) -> onnx.ModelProto:
    """Copy a model with each weight moved by one unit in the last place, up or down at random."""
    weights = set(_weights(model.graph))
    copy = bare_copy(model)
    for tensor in model.graph.initializer:
        added = copy.graph.initializer.add()
        if tensor.name in weights and tensor.data_location != onnx.TensorProto.EXTERNAL:
            moved = _perturbed(numpy_helper.to_array(tensor), generator)
            added.CopyFrom(numpy_helper.from_array(moved, tensor.name))
        else:
            added.CopyFrom(tensor)
    return copy


def perturb_batch(batch: Batch, generator: np.random.Generator) -> Batch:
    """Copy a batch with each floating number moved in the same way."""
    return {name: _perturbed(array, generator) for name, array in batch.items()}


def _weights(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        if node.op_type in _ARITHMETIC and not node.domain:
            yield from node.input


def _perturbed(array: Array, generator: np.random.Generator) -> Array:
    """Move by one unit; zeros, subnormals and the largest number are unchanged."""
    if not is_floating(array.dtype):
        return array
    finfo = ml_dtypes.finfo(array.dtype)  # type: ignore[no-untyped-call]  # untyped package
    magnitude = np.abs(array.astype(np.float64))
    movable = (magnitude > float(finfo.smallest_normal)) & (magnitude < float(finfo.max))
    # The binary forms of adjacent floating-point numbers differ by one as integers.
    bits = np.ascontiguousarray(array).view(_BITS[array.dtype.itemsize]).copy()
    up = generator.integers(0, 2, size=array.shape, dtype=np.uint8).astype(np.bool_)
    bits[movable & up] += 1
    bits[movable & ~up] -= 1
    return bits.view(array.dtype)
