"""Opening a model, and what is known of its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from bn_ops.onnx_files.session import Session, session

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["default_tolerance", "open_model"]

_TOLERANCES: dict[int, float] = {
    onnx.TensorProto.BFLOAT16: 1.6e-2,
    onnx.TensorProto.FLOAT16: 2e-3,
    onnx.TensorProto.FLOAT: 1e-5,
    onnx.TensorProto.DOUBLE: 1e-12,
}
"""Relative error that a right fold keeps, by the coarsest element type of the model: about twice
the rounding unit for the 16-bit types (one multiplication, one addition), and room for sums of some
thousand terms in the others."""

_SMALL = 8
"""Elements up to which a stored tensor is taken for sizes or bounds, not for weights."""


def default_tolerance(model: onnx.ModelProto) -> float:
    """Return the tolerance of the coarsest floating element type among weights and ends."""
    types = {_element_type(value) for value in (*model.graph.input, *model.graph.output)}
    types |= {
        tensor.data_type
        for tensor in model.graph.initializer
        if len(tensor.dims) > 0 and _elements(tensor) > _SMALL
    }
    known = [_TOLERANCES[kind] for kind in types if kind in _TOLERANCES]
    return max(known, default=_TOLERANCES[onnx.TensorProto.FLOAT])


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _element_type(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type


def open_model(model: onnx.ModelProto, *, threads: int | None) -> Session:
    """Open a model in onnxruntime as it stands, without graph optimisations.

    Raises:
        ModelInvalidError: onnxruntime cannot load it.
    """
    return session(model, threads=threads, optimize=False)


def output_names(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the names of the outputs, in order."""
    return (value.name for value in model.graph.output)
