"""Evaluate in numpy the operators that exporters put between a stored weight and its reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bn_ops.folding.casting import FLOATS

__all__ = ["EVALUATORS", "Evaluator", "RawArray"]

RawArray = NDArray[np.generic]

Evaluator = Callable[[ir.Node, list[RawArray | None]], RawArray | None]


def _constant(node: ir.Node, _: list[RawArray | None]) -> RawArray | None:
    tensor = node.attributes.get_tensor("value", None)
    if tensor is not None:
        return np.asarray(tensor.numpy())
    for name, dtype in _SCALARS.items():
        if name in node.attributes:
            return np.asarray(node.attributes[name].value, dtype=dtype)
    return None


_SCALARS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}

_MAX_FILL = 1 << 28
"""Maximum elements of a ConstantOfShape; a file of 100 bytes may request terabytes."""


def _constant_of_shape(node: ir.Node, arrays: list[RawArray | None]) -> RawArray | None:
    shape = [int(size) for size in _given(arrays[0]).reshape(-1)]
    if any(size < 0 for size in shape) or float(np.prod(shape, dtype=np.float64)) > _MAX_FILL:
        return None
    tensor = node.attributes.get_tensor("value", None)
    fill = np.zeros(1, dtype=np.float32) if tensor is None else tensor.numpy().reshape(-1)
    return np.full(shape, fill[0], dtype=fill.dtype)


def _cast(node: ir.Node, arrays: list[RawArray | None]) -> RawArray | None:
    target = ir.DataType(node.attributes["to"].as_int())
    source = _given(arrays[0])
    if target not in FLOATS or ir.DataType.from_numpy(source.dtype) not in FLOATS:
        return None
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(source.astype(target.numpy()))


def _transpose(node: ir.Node, arrays: list[RawArray | None]) -> RawArray | None:
    return np.transpose(_given(arrays[0]), node.attributes.get_ints("perm", None))


def _reshape(node: ir.Node, arrays: list[RawArray | None]) -> RawArray | None:
    source = _given(arrays[0])
    sizes = [int(size) for size in _given(arrays[1]).reshape(-1)]
    if node.attributes.get_int("allowzero", 0) == 0:
        sizes = [source.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return source.reshape(sizes)


def _squeeze(node: ir.Node, arrays: list[RawArray | None]) -> RawArray | None:
    axes = _axes(node, arrays)
    return np.squeeze(_given(arrays[0]), axis=axes)


def _unsqueeze(node: ir.Node, arrays: list[RawArray | None]) -> RawArray | None:
    axes = _axes(node, arrays)
    return None if axes is None else np.expand_dims(_given(arrays[0]), axes)


def _axes(node: ir.Node, arrays: list[RawArray | None]) -> tuple[int, ...] | None:
    if len(arrays) > 1 and arrays[1] is not None:
        return tuple(int(axis) for axis in arrays[1].reshape(-1))
    found = node.attributes.get_ints("axes", None)
    return None if found is None else tuple(found)


def _given(array: RawArray | None) -> RawArray:
    if array is None:
        raise ValueError("a required input is missing")
    return array


EVALUATORS: Mapping[str, Evaluator] = {
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Identity": lambda _, arrays: arrays[0],
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
"""By operator of the standard domain; an evaluator returns None to decline."""
