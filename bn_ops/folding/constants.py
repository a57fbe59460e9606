"""Read tensors whose values are known before the model runs, or why they are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bn_ops.folding.casting import FLOATS
from bn_ops.folding.names import describe
from bn_ops.folding.plan import Refusal

if TYPE_CHECKING:
    from bn_ops.folding.affine import Float64Array

__all__ = ["EVALUATORS", "Constant", "Constants", "Evaluator", "RawArray"]

# Evaluate in numpy the operators that exporters put between a stored weight and its reader.

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


CONSTANT_IR_VERSION = 4
"""From this IR version on, a caller may override an initializer that is also a graph input. Before,
every initializer had to be listed as an input, and runtimes treat it as constant."""

_MAX_CHAIN = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Constant:
    """A constant floating-point tensor.

    Attributes:
        array: the value in float64, before any rounding by an earlier fold.
        dtype: the element type in the file.
    """

    array: Float64Array
    dtype: ir.DataType


class Constants:
    """Reads constants of one model and keeps the exact values of folded ones."""

    def __init__(self, ir_version: int) -> None:
        self._overridable = ir_version >= CONSTANT_IR_VERSION
        self._exact: dict[ir.Value, Float64Array] = {}

    def remember(self, value: ir.Value, array: Float64Array) -> None:
        """Keep the exact value of a folded tensor, so that the next fold does not round twice."""
        self._exact[value] = array

    def exact(self, graph: ir.Graph) -> dict[str, Float64Array]:
        """Return the exact values of the graph's folded tensors, by name."""
        return {
            name: self._exact[value]
            for name, value in graph.initializers.items()
            if value in self._exact
        }

    def overridable(self, value: ir.Value) -> bool:
        """Return whether a caller may pass another value for this initializer."""
        return self._overridable and value.is_graph_input()

    def read(self, node: ir.Node, index: int) -> Constant | Refusal:
        """Read the input of a node as floating-point numbers."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return Refusal(reason=f"{describe(node)} has no input {index}")
        raw = self._raw(value, _MAX_CHAIN)
        if isinstance(raw, Refusal):
            return raw
        dtype = ir.DataType.from_numpy(raw.dtype)
        if dtype not in FLOATS:
            return Refusal(reason=f"{value.name!r} is {dtype.name.lower()}, not floating point")
        exact = self._exact.get(value)
        return Constant(array=raw.astype(np.float64) if exact is None else exact, dtype=dtype)

    def ints(self, node: ir.Node, index: int) -> tuple[int, ...] | None:
        """Read an input with axes, sizes or pads; None unless it is a constant."""
        value = node.inputs[index] if index < len(node.inputs) else None
        raw = None if value is None else self._raw(value, _MAX_CHAIN)
        if raw is None or isinstance(raw, Refusal) or raw.dtype.kind not in "iu":
            return None
        return tuple(int(item) for item in raw.reshape(-1))

    def raw(self, value: ir.Value) -> RawArray | Refusal:
        """Read a tensor of any element type, as stored."""
        return self._raw(value, _MAX_CHAIN)

    def _raw(self, value: ir.Value, depth: int) -> RawArray | Refusal:
        if value.is_initializer():
            return self._initializer(value)
        if value.is_graph_input():
            return Refusal(reason=f"{value.name!r} is an input of the graph, not a stored tensor")
        producer = value.producer()
        if producer is None:
            return Refusal(reason=f"{value.name!r} is not stored in the model")
        return self._computed(value, producer, depth)

    def _initializer(self, value: ir.Value) -> RawArray | Refusal:
        if self.overridable(value):
            return Refusal(
                reason=f"{value.name!r} is also an input of the graph, so a caller may override it"
            )
        if value.const_value is None:
            return Refusal(reason=f"{value.name!r} has no data")
        return _numpy(value.const_value, value.name)

    def _computed(self, value: ir.Value, node: ir.Node, depth: int) -> RawArray | Refusal:
        evaluate = EVALUATORS.get(node.op_type) if node.domain == "" else None
        if evaluate is None or len(node.outputs) != 1 or depth == 0:
            return Refusal(reason=f"{value.name!r} is computed by {describe(node)}")
        arrays: list[RawArray | None] = []
        for item in node.inputs:
            array = None if item is None else self._raw(item, depth - 1)
            if isinstance(array, Refusal):
                return array
            arrays.append(array)
        try:
            found = evaluate(node, arrays)
        except (ValueError, TypeError, IndexError, KeyError, MemoryError, OverflowError, OSError):
            found = None
        if found is None:
            return Refusal(reason=f"{value.name!r} is computed by {describe(node)}")
        return found


def _numpy(tensor: ir.TensorProtocol, name: str | None) -> RawArray | Refusal:
    if isinstance(tensor, ir.ExternalTensor):
        # The reader of model files checks its location: see `bn_ops.onnx_files.read_write`.
        return Refusal(reason=f"the data of {name!r} cannot be read: it is external data")
    try:
        return np.asarray(tensor.numpy())
    except (OSError, ValueError, TypeError):
        return Refusal(reason=f"the data of {name!r} cannot be read")
