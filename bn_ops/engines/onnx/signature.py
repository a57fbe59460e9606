"""Inputs and outputs of an ONNX model as `TensorInfo`."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from bn_ops.core.signature import TensorInfo
from bn_ops.errors import ModelUnsupportedError

__all__ = ["model_inputs", "model_outputs"]


def model_inputs(model: onnx.ModelProto) -> tuple[TensorInfo, ...]:
    """Return the inputs that a batch must hold, which are those without an initializer."""
    given = {tensor.name for tensor in model.graph.initializer}
    return _infos(value for value in model.graph.input if value.name not in given)


def model_outputs(model: onnx.ModelProto) -> tuple[TensorInfo, ...]:
    """Return the outputs."""
    return _infos(model.graph.output)


def _infos(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorInfo, ...]:
    return tuple(_info(value) for value in values)


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    if not value.type.HasField("tensor_type"):
        raise ModelUnsupportedError(
            f"{value.name!r} is a {value.type.WhichOneof('value')}; inputs and outputs must be "
            "tensors"
        )
    tensor = value.type.tensor_type
    shape = tuple(_size(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return TensorInfo(name=value.name, dtype=dtype, shape=shape)


def _size(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value > 0 else None
    return dim.dim_param or None
