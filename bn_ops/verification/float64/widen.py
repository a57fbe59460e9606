"""Copy a model with every floating-point number in float64."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bn_ops.core.statistics import Float64Array
from bn_ops.onnx_files.large_models import light_copy

__all__ = ["widened"]

Array = NDArray[np.generic]

_NARROW = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_TYPE_ATTRIBUTES = frozenset({"to", "dtype"})
_NUMBER_ATTRIBUTES = frozenset({"value_float", "value_floats"})


def widened(
    model: onnx.ModelProto, exact: Mapping[str, Float64Array] = MappingProxyType({})
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Copy a model with float64 tensors, constants, casts, inputs and outputs.

    Args:
        model: not changed.
        exact: initializer → value to use instead of the stored one.

    Returns:
        The copy, in which large tensors are inputs, and the values to feed: as initializers they
        would be held twice, in the message and in the evaluator.
    """
    copy = light_copy(model)
    small = {tensor.name: tensor for tensor in copy.graph.initializer}
    large: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        value = exact.get(tensor.name)
        if tensor.name not in small:
            large[tensor.name] = _wide_array(tensor) if value is None else value
        elif value is not None:
            small[tensor.name].CopyFrom(numpy_helper.from_array(value, tensor.name))
    _widen_graph(copy.graph)
    for function in copy.functions:
        for node in function.node:
            _widen_node(node)
    return copy, large


def _wide_array(tensor: onnx.TensorProto) -> Array:
    array = numpy_helper.to_array(tensor)
    return array.astype(np.float64) if tensor.data_type in _NARROW else array


def _widen_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _NARROW:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        _widen_node(node)


def _widen_node(node: onnx.NodeProto) -> None:
    _widen_constant(node)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            _widen_graph(attribute.g)
        for graph in attribute.graphs:
            _widen_graph(graph)
        if attribute.HasField("t"):
            _widen_tensor(attribute.t)
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _NARROW:
            attribute.i = TensorProto.DOUBLE


def _widen_constant(node: onnx.NodeProto) -> None:
    """Store the float32 attributes of a Constant node as float64."""
    for attribute in node.attribute:
        if node.op_type != "Constant" or attribute.name not in _NUMBER_ATTRIBUTES:
            continue
        scalar = attribute.name == "value_float"
        array = np.array(attribute.f if scalar else attribute.floats, dtype=np.float64)
        attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(array)))


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _NARROW:
        tensor.CopyFrom(numpy_helper.from_array(_wide_array(tensor), tensor.name))
