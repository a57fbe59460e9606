"""Infer ranks, sizes and element types of a graph's values from its inputs alone.

Shapes that a file declares for intermediate values are not trusted: they may be left over from
earlier edits, and a wrong shape would make a wrong fold look exact.
"""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from bn_ops.errors import ModelInvalidError
from bn_ops.folding.constants import CONSTANT_IR_VERSION

__all__ = ["Dim", "Shapes"]

Dim = int | str
"""A size, or the name of a symbolic one. A symbolic size without a name gets a unique one."""


class Shapes:
    """Results of shape inference for the values of the main graph, by name."""

    def __init__(self, model: ir.Model) -> None:
        inferred = _infer(model)
        self._dims: dict[str, tuple[Dim, ...]] = {}
        self._dtypes: dict[str, ir.DataType] = {}
        for name, value in ir.convenience.create_value_mapping(
            inferred.graph, include_subgraphs=False
        ).items():
            if value.shape is not None:
                self._dims[name] = _dims(name, value.shape)
            if value.dtype is not None:
                self._dtypes[name] = value.dtype

    def dims(self, value: ir.Value | None) -> tuple[Dim, ...] | None:
        """Return the sizes of a value; None if its rank is unknown."""
        if value is None or value.name is None:
            return None
        return self._dims.get(value.name)

    def rank(self, value: ir.Value | None) -> int | None:
        """Return the number of axes; None if unknown."""
        dims = self.dims(value)
        return None if dims is None else len(dims)

    def dtype(self, value: ir.Value) -> ir.DataType | None:
        """Return the element type; None if unknown."""
        return None if value.name is None else self._dtypes.get(value.name)

    def rename(self, old: str | None, new: str | None) -> None:
        """Copy what is known about a value to its new name."""
        if old is None or new is None:
            return
        if old in self._dims:
            self._dims[new] = self._dims[old]
        if old in self._dtypes:
            self._dtypes[new] = self._dtypes[old]


def _infer(model: ir.Model) -> ir.Model:
    try:
        inferred = model.clone()
    except RuntimeError as error:
        # A subgraph may only return its own values; runtimes reject anything else as well.
        raise ModelInvalidError("a subgraph of If, Loop or Scan returns an outer value") from error
    if inferred.ir_version >= CONSTANT_IR_VERSION:
        # Sizes that a caller may override are unknown, whatever their default.
        for value in inferred.graph.inputs:
            inferred.graph.initializers.pop(value.name or "", None)
    for node in inferred.graph:
        for value in node.outputs:
            value.shape = None
            if not value.is_graph_output():
                value.type = None
    quiet = logging.getLogger("onnx_ir.passes.common.shape_inference")
    level = quiet.level
    # Where inference fails, fewer layers are folded; the caller's log need not mention it.
    quiet.setLevel(logging.CRITICAL)
    try:
        return ShapeInferencePass(check_type=False, strict_mode=False)(inferred).model
    finally:
        quiet.setLevel(level)


def _dims(name: str, shape: ir.Shape) -> tuple[Dim, ...]:
    found: list[Dim] = []
    for axis, dim in enumerate(shape):
        if isinstance(dim, int):
            found.append(dim)
        else:
            found.append(dim.value if dim.value is not None else f"{name}@{axis}")
    return tuple(found)
