"""Rewrite nodes for the previous version of an operator, where `onnx.version_converter` cannot.

An adapter changes the meaning of nothing: a node that the older version cannot express is left as
it is, and the conversion then fails with the operator's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["ADAPTERS", "Adapter", "GraphFacts"]


@dataclass(slots=True, kw_only=True, eq=False)
class GraphFacts:
    """What is known of a graph's values, and the constants that adapters add.

    Attributes:
        shapes: value → its shape, None for an unknown size; values of unknown rank are missing.
        types: value → its element type.
        constants: initializer → its value; large initializers are missing.
        names: all names in use.
        added: initializers to add to the graph.
    """

    shapes: Mapping[str, tuple[int | None, ...]]
    types: Mapping[str, int]
    constants: Mapping[str, NDArray[np.generic]]
    names: set[str]
    added: list[onnx.TensorProto] = field(default_factory=list)

    @classmethod
    def of(cls, model: onnx.ModelProto) -> GraphFacts:
        """Infer the facts of a model's main graph."""
        graph = onnx.shape_inference.infer_shapes(model).graph
        values = [*graph.input, *graph.value_info, *graph.output]
        tensors = {value.name: value.type.tensor_type for value in values}
        shapes = {name: _shape(kind) for name, kind in tensors.items() if kind.HasField("shape")}
        types = {name: int(kind.elem_type) for name, kind in tensors.items()}
        for tensor in graph.initializer:
            shapes[tensor.name] = tuple(tensor.dims)
            types[tensor.name] = int(tensor.data_type)
        return cls(
            shapes=shapes,
            types=types,
            constants={t.name: numpy_helper.to_array(t) for t in graph.initializer},
            names={*types, *(name for node in graph.node for name in node.output)},
        )

    def constant(self, near: str, value: NDArray[np.generic]) -> str:
        """Add an initializer; return its name."""
        name = self.name(near)
        self.added.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def name(self, near: str) -> str:
        """Return a new name that starts with another one."""
        number = 1
        while f"{near}.{number}" in self.names:
            number += 1
        self.names.add(f"{near}.{number}")
        return f"{near}.{number}"


def _shape(kind: onnx.TypeProto.Tensor) -> tuple[int | None, ...]:
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)


Adapter: TypeAlias = Callable[[onnx.NodeProto, GraphFacts], list[onnx.NodeProto] | None]
"""Returns the nodes in place of a node, or None if the older version cannot express it."""


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _like(
    node: onnx.NodeProto, inputs: list[str], outputs: list[str] | None = None, **attributes: Any
) -> onnx.NodeProto:
    """Return a node of the same operator and name with other inputs and attributes."""
    return helper.make_node(
        node.op_type, inputs, list(outputs or node.output), name=node.name, **attributes
    )


def _softmax(node: onnx.NodeProto, facts: GraphFacts) -> list[onnx.NodeProto] | None:
    """Before 13, all axes from `axis` on are normalized together: move the axis to the end."""
    shape = facts.shapes.get(node.input[0])
    if shape is None:
        return None
    rank = len(shape)
    axis = int(_attributes(node).get("axis", -1)) % rank
    last = rank - 1
    if axis == last:
        return [_like(node, list(node.input), axis=last)]
    order = list(range(rank))
    order[axis], order[last] = last, axis
    moved, normalized = facts.name(node.output[0]), facts.name(node.output[0])
    return [
        helper.make_node("Transpose", list(node.input), [moved], perm=order),
        _like(node, [moved], [normalized], axis=last),
        helper.make_node("Transpose", [normalized], list(node.output), perm=order),
    ]


def _shape_of(node: onnx.NodeProto, facts: GraphFacts) -> list[onnx.NodeProto] | None:
    """Before 15, Shape has neither `start` nor `end`: slice its result."""
    attributes = _attributes(node)
    start = int(attributes.get("start", 0))
    end = int(attributes.get("end", np.iinfo(np.int64).max))
    whole = facts.name(node.output[0])
    bounds = [
        facts.constant(node.output[0], np.array([bound], dtype=np.int64)) for bound in (start, end)
    ]
    return [
        _like(node, list(node.input), [whole]),
        helper.make_node("Slice", [whole, *bounds], list(node.output)),
    ]


def _reshape(node: onnx.NodeProto, facts: GraphFacts) -> list[onnx.NodeProto] | None:
    """Before 14, a size of 0 copies the input's; a computed size is 0 only without samples."""
    sizes = facts.constants.get(node.input[1])
    if sizes is not None and bool((sizes == 0).any()):
        return None
    return [_like(node, list(node.input))]


def _split(node: onnx.NodeProto, facts: GraphFacts) -> list[onnx.NodeProto] | None:
    """Before 18, there is no number of parts: state their sizes."""
    attributes = _attributes(node)
    axis = int(attributes.get("axis", 0))
    shape = facts.shapes.get(node.input[0])
    size = None if shape is None else shape[axis]
    if size is None:
        return None
    count = len(node.output)
    part = math.ceil(size / count)
    sizes = [min(part, size - part * place) for place in range(count)]
    name = facts.constant(node.output[0], np.array(sizes, dtype=np.int64))
    return [_like(node, [node.input[0], name], axis=axis)]


def _clip(node: onnx.NodeProto, facts: GraphFacts) -> list[onnx.NodeProto] | None:
    """Before 11, the bounds are attributes."""
    bounds: dict[str, Any] = {}
    for name, given in zip(("min", "max"), node.input[1:], strict=False):
        if not given:
            continue
        value = facts.constants.get(given)
        if value is None:
            return None
        bounds[name] = float(value.reshape(()))
    return [_like(node, [node.input[0]], **bounds)]


def _pad(node: onnx.NodeProto, facts: GraphFacts) -> list[onnx.NodeProto] | None:
    """Before 11, pads and value are attributes."""
    pads = facts.constants.get(node.input[1])
    given = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 - position of the value
    value = facts.constants.get(given) if given else np.float32(0)
    if pads is None or value is None:
        return None
    mode = _attributes(node).get("mode", b"constant")
    return [
        _like(
            node,
            [node.input[0]],
            pads=[int(size) for size in pads],
            mode=mode,
            value=float(np.asarray(value).reshape(())),
        )
    ]


def _dropout(node: onnx.NodeProto, facts: GraphFacts) -> list[onnx.NodeProto] | None:
    """Before 12, dropout has one input; in inference it does nothing."""
    training = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 - position of the flag
    if training and not _is_false(facts.constants.get(training)):
        return None
    return [_like(node, [node.input[0]])]


def _is_false(value: NDArray[np.generic] | None) -> bool:
    return value is not None and not bool(value.reshape(()))


_GRID_MODES = MappingProxyType({b"linear": "bilinear", b"cubic": "bicubic"})


def _grid_sample(node: onnx.NodeProto, facts: GraphFacts) -> list[onnx.NodeProto] | None:
    """Before 20, the modes are named for two axes."""
    shape = facts.shapes.get(node.input[0])
    if shape is None or len(shape) != 4:  # noqa: PLR2004 - samples, channels, height, width
        return None
    attributes = _attributes(node)
    mode = attributes.pop("mode", b"linear")
    return [_like(node, list(node.input), mode=_GRID_MODES.get(mode, mode), **attributes)]


def _resize(node: onnx.NodeProto, facts: GraphFacts) -> list[onnx.NodeProto] | None:
    """Before 13, no input may be left out: give empty ones."""
    inputs = [
        given or facts.constant(node.output[0], np.zeros(0, dtype=np.float32))
        for given in node.input
    ]
    return [_like(node, inputs, **_attributes(node))]


ADAPTERS: Mapping[tuple[str, int], Adapter] = MappingProxyType(
    {
        ("Softmax", 13): _softmax,
        ("LogSoftmax", 13): _softmax,
        ("Shape", 15): _shape_of,
        ("Reshape", 14): _reshape,
        ("Split", 18): _split,
        ("Clip", 11): _clip,
        ("Pad", 11): _pad,
        ("Dropout", 12): _dropout,
        ("GridSample", 20): _grid_sample,
        ("Resize", 13): _resize,
    }
)
"""Operator and the version that changed it → the adapter to the version before."""
