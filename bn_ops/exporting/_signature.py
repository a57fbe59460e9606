"""Names of inputs, outputs and the free axis: the caller's words instead of the exporter's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx_ir as ir
from torch.utils import _pytree as pytree

from bn_ops.exporting._inputs import ExampleCall
from bn_ops.torch_modules.arguments import key_name, unique_names

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["BATCH_AXIS", "name_inputs", "name_outputs"]

BATCH_AXIS = "batch"


def name_inputs(model: ir.Model, program: ExportedProgram, call: ExampleCall | None) -> None:
    """Give inputs the names of forward's parameters or dict keys, and free first axes one name.

    A program's inputs keep the names that they have in it.
    """
    if call is not None:
        wanted = dict(zip(program.graph_signature.user_inputs, call.names, strict=True))
        for value in model.graph.inputs:
            value.name = wanted.get(value.name, value.name)
    _name_batch_axis(model)


def _name_batch_axis(model: ir.Model) -> None:
    """Rename the symbols of all free first axes, wherever they occur in a shape."""
    symbols = {
        value.shape[0].value
        for value in model.graph.inputs
        if value.shape is not None
        and len(value.shape)
        and isinstance(value.shape[0], ir.SymbolicDim)
    }
    names = sorted(name for name in symbols if name)
    if not names:
        return
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, names)) + r")\b")
    for value in _all_values(model):
        _rename_axes(value, pattern)


def _all_values(model: ir.Model) -> list[ir.Value]:
    produced = [value for node in model.graph.all_nodes() for value in node.outputs]
    return [*model.graph.inputs, *produced]


def _rename_axes(value: ir.Value, pattern: re.Pattern[str]) -> None:
    if value.shape is None:
        return
    value.shape = ir.Shape(
        ir.SymbolicDim(pattern.sub(BATCH_AXIS, axis.value))
        if isinstance(axis, ir.SymbolicDim) and axis.value is not None
        else axis
        for axis in value.shape
    )


def name_outputs(model: ir.Model, program: ExportedProgram) -> None:
    """Name outputs by dict key or field; else `output`, or `output_0`, `output_1`, … ."""
    names = _output_names(program)
    if len(names) != len(model.graph.outputs):
        return
    taken = {value.name for value in model.graph.inputs}
    for value, name in zip(model.graph.outputs, names, strict=True):
        value.name = f"{name}_out" if name in taken else name


def _output_names(program: ExportedProgram) -> tuple[str, ...]:
    spec = program.call_spec.out_spec
    kept = program.graph_signature.user_outputs
    if spec is None or spec.num_leaves != len(kept):
        return ()
    paths = [path for path, _ in pytree.tree_flatten_with_path(_unflatten(spec))[0]]
    is_tensor = [isinstance(name, str) for name in kept]
    words = [
        ("output", *(key_name(key) for key in path))
        for path, keep in zip(paths, is_tensor, strict=True)
        if keep
    ]
    return unique_names(words)


def _unflatten(spec: pytree.TreeSpec) -> object:
    return pytree.tree_unflatten(list(range(spec.num_leaves)), spec)
