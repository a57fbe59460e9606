"""Prepare and clean up a graph: inline functions, remove unused nodes and initializers."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from bn_ops.errors import ModelInvalidError
from bn_ops.folding.batchnorm import is_batchnorm
from bn_ops.folding.constants import CONSTANT_IR_VERSION

__all__ = ["inline_batchnorm_functions", "remove_unused"]


def inline_batchnorm_functions(model: ir.Model) -> None:
    """Inline every local function that contains or calls a BatchNormalization, in place.

    A layer inside a function can only be folded where the function is called. Other functions are
    not inlined.

    Raises:
        ModelInvalidError: the functions are recursive.
    """
    wanted = _functions_with_batchnorm(model)
    if not wanted:
        return
    try:
        InlinePass(criteria=lambda function: function.identifier() in wanted)(model)
    except ir.passes.PreconditionError as error:
        raise ModelInvalidError(f"the local functions cannot be inlined: {error}") from error


def _functions_with_batchnorm(model: ir.Model) -> set[ir.OperatorIdentifier]:
    found: set[ir.OperatorIdentifier] = set()
    size = -1
    while len(found) != size:
        size = len(found)
        for identifier, function in model.functions.items():
            nodes = list(function.all_nodes())
            if any(is_batchnorm(node) or node.op_identifier() in found for node in nodes):
                found.add(identifier)
    return found


def remove_unused(model: ir.Model) -> None:
    """Remove nodes and initializers of the main graph that contribute to no output, in place.

    Inputs are kept even if unused, and so is the default of an input that a caller may override.
    """
    graph = model.graph
    for node in reversed(graph):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            _release_outer_values(node)
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


def _release_outer_values(node: ir.Node) -> None:
    """Unlink the subgraphs of a removed node, so that they no longer count as readers."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            subgraphs = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            subgraphs = list(attribute.as_graphs())
        else:
            continue
        for subgraph in subgraphs:
            for inner in subgraph.all_nodes():
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)
