"""Stable names: layers by module path, parameters by state-dict path, inputs as the caller's."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import onnx_ir as ir
from torch.utils import _pytree as pytree

from bn_ops.exporting._inputs import ExampleCall
from bn_ops.torch_modules.arguments import key_name, unique_names

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["name_everything", "name_inputs", "name_outputs"]

BATCH_AXIS = "batch"

_SCOPES = "pkg.torch.onnx.name_scopes"
_ROOT_LAYER = "batch_norm"
_LAYER_INPUTS = ("", "weight", "bias", "running_mean", "running_var")
_STATISTICS = frozenset({"running_mean", "running_var"})


def name_everything(model: ir.Model) -> None:
    """Rename nodes, values and initializers in place, and remove the exporter's metadata.

    The metadata contains source lines and file paths of the exporting machine.
    """
    _name_nodes(model.graph)
    for node in model.graph:
        if node.op_type == "BatchNormalization":
            _own_statistics(model.graph, node)
    _name_constants(model.graph)
    _name_values(model.graph)
    _strip(model)


def scope_of(node: ir.Node) -> str:
    """Return the path of the module whose call made the node; empty for the root."""
    scopes = node.metadata_props.get(_SCOPES)
    if scopes is None:
        return ""
    path = ast.literal_eval(scopes)[:-1]
    return str(path[-1]) if path else ""


def _name_nodes(graph: ir.Graph) -> None:
    scopes = {node: scope_of(node) for node in graph}
    population = Counter(scopes.values())
    taken: Counter[str] = Counter()
    layers = [node for node in graph if node.op_type == "BatchNormalization"]
    for node in layers:
        node.name = _numbered(scopes[node] or _ROOT_LAYER, taken)
    for node in graph:
        if node.op_type != "BatchNormalization":
            scope = scopes[node]
            alone = scope and population[scope] == 1
            node.name = _numbered(scope if alone else f"{scope}/{node.op_type}".lstrip("/"), taken)


def _numbered(name: str, taken: Counter[str]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"


def _own_statistics(graph: ir.Graph, node: ir.Node) -> None:
    """Give a layer its own initializers under its own name."""
    for index, role in enumerate(_LAYER_INPUTS):
        value = node.inputs[index]
        if not role or value is None or not value.is_initializer():
            continue
        if role not in _STATISTICS and not _is_anonymous(value):
            continue
        name = f"{node.name}.{role}"
        if value.name == name and len(value.uses()) == 1:
            continue
        _free_name(graph, name, value)
        if len(value.uses()) == 1:
            value.name = name
        else:
            node.replace_input_with(index, _copied(graph, value, name))


def _free_name(graph: ir.Graph, name: str, owner: ir.Value) -> None:
    """Rename another initializer that has the name of a layer's initializer."""
    holder = graph.initializers.get(name)
    if holder is not None and (holder is not owner or len(owner.uses()) > 1):
        taken = Counter(graph.initializers.keys())
        holder.name = _numbered(name, taken)


def _copied(graph: ir.Graph, value: ir.Value, name: str) -> ir.Value:
    copy = ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value)
    graph.register_initializer(copy)
    return copy


def _is_anonymous(value: ir.Value) -> bool:
    return value.name is None or value.name.startswith("val_")


def _name_constants(graph: ir.Graph) -> None:
    """Name constants that are in no state dict by their first reader and its input's position."""
    taken = Counter(graph.initializers.keys())
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is not None and value.is_initializer() and _is_anonymous(value):
                value.name = _numbered(f"{node.name}.input{index}", taken)


def _name_values(graph: ir.Graph) -> None:
    fixed = {value.name for value in (*graph.inputs, *graph.outputs)}
    taken = Counter(name for name in (*fixed, *graph.initializers) if name is not None)
    for node in graph:
        for index, value in enumerate(node.outputs):
            if value.name and not value.is_graph_output():
                suffix = "" if index == 0 else f".output{index}"
                value.name = _numbered(f"{node.name}{suffix}", taken)


def _strip(model: ir.Model) -> None:
    groups: dict[str, list[ir.Value]] = defaultdict(list)
    groups["values"] = [
        *model.graph.inputs,
        *model.graph.initializers.values(),
        *(value for node in model.graph.all_nodes() for value in node.outputs),
    ]
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in groups["values"]:
        value.metadata_props.clear()
        value.doc_string = None
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.doc_string = model.graph.doc_string = None


def name_inputs(model: ir.Model, program: ExportedProgram, call: ExampleCall | None) -> None:
    """Name inputs after forward's parameters or dict keys, and the free first axes `batch`.

    The inputs of a program keep their names.
    """
    if call is not None:
        names = dict(zip(program.graph_signature.user_inputs, call.names, strict=True))
        for value in model.graph.inputs:
            value.name = names.get(value.name, value.name)
    _name_batch_axis(model)


def _name_batch_axis(model: ir.Model) -> None:
    """Rename the symbols of all free first axes wherever they occur in a shape."""
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
    """Name outputs after dict keys or fields; otherwise `output`, or `output_0` and so on."""
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
