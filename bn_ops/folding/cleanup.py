"""Removing what nothing reads any more."""

from __future__ import annotations

import onnx_ir as ir

from bn_ops.folding.constants import CONSTANT_IR_VERSION

__all__ = ["remove_unused"]


def remove_unused(model: ir.Model) -> None:
    """Remove nodes and initializers of the main graph that contribute to no output. In place.

    Inputs stay, read or not, and so does the default of an input that a caller may override.
    """
    graph = model.graph
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            _let_go_of_outer_values(node)
            graph.remove(node, safe=True)
    overridable = model.ir_version >= CONSTANT_IR_VERSION
    for name, value in list(graph.initializers.items()):
        if value.uses() or value.is_graph_output():
            continue
        if not value.is_graph_input():
            del graph.initializers[name]
        elif not overridable:
            graph.inputs.remove(value)
            del graph.initializers[name]


def _let_go_of_outer_values(node: ir.Node) -> None:
    """Unlink the bodies of a node that goes, so that they no longer count as readers."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies = list(attribute.as_graphs())
        else:
            continue
        for body in bodies:
            for inner in body.all_nodes():
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)
