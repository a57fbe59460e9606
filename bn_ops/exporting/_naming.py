"""Stable names: layers by module path, statistics by layer, parameters by state-dict path."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict

import onnx_ir as ir

__all__ = ["name_everything"]

_SCOPES = "pkg.torch.onnx.name_scopes"
_ROOT_LAYER = "batch_norm"
_LAYER_INPUTS = ("", "weight", "bias", "running_mean", "running_var")
_STATISTICS = frozenset({"running_mean", "running_var"})


def name_everything(model: ir.Model) -> None:
    """Rename nodes, values and initialisers in place, and drop the exporter's metadata.

    The metadata holds source lines and file paths of the exporting machine.
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
    """Give a layer initialisers of its own under its own name."""
    for index, role in enumerate(_LAYER_INPUTS):
        value = node.inputs[index]
        if not role or value is None or not value.is_initializer():
            continue
        if role not in _STATISTICS and not _is_anonymous(value):
            continue
        wanted = f"{node.name}.{role}"
        if value.name == wanted and len(value.uses()) == 1:
            continue
        _make_room(graph, wanted, value)
        if len(value.uses()) == 1:
            value.name = wanted
        else:
            node.replace_input_with(index, _copied(graph, value, wanted))


def _make_room(graph: ir.Graph, name: str, owner: ir.Value) -> None:
    """Rename another initialiser that holds a name which belongs to a layer."""
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
