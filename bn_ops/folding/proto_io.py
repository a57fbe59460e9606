"""Convert between ModelProto and onnx_ir, preserving what onnx_ir does not represent."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from bn_ops.diagnostics.report import LayerFold
from bn_ops.errors import ModelInvalidError
from bn_ops.folding.layers import find_layers
from bn_ops.folding.result import Folded
from bn_ops.onnx_files.traversal import all_nodes, subgraphs

__all__ = ["all_kept", "copied", "read_graph", "stores_sparse", "write_graph"]


def read_graph(onnx_model: onnx.ModelProto) -> ir.Model:
    """Read a model into onnx_ir; weights are shared with the given model, not copied.

    Raises:
        ModelInvalidError: the graph is not well-formed.
    """
    try:
        return ir.from_proto(onnx_model)
    except (ValueError, TypeError, KeyError, AttributeError, ir.serde.SerdeError) as error:
        raise ModelInvalidError(f"the model cannot be read as a graph: {error}") from error


def write_graph(model: ir.Model, original: onnx.ModelProto) -> onnx.ModelProto:
    """Write a graph back, taking what onnx_ir does not represent from the original."""
    written = ir.to_proto(model)
    # onnx_ir adds the shape of every weight; keep only what the original file declared.
    stated = {value.name for value in original.graph.value_info}
    kept = [value for value in written.graph.value_info if value.name in stated]
    del written.graph.value_info[:]
    written.graph.value_info.extend(kept)
    # onnx_ir does not represent training information; folding does not change it.
    written.training_info.extend(original.training_info)
    return written


def stores_sparse(model: onnx.ModelProto) -> bool:
    """Return whether any graph stores sparse tensors, which onnx_ir drops."""
    inner = (graph for node in all_nodes(model) for graph in subgraphs(node))
    return any(graph.sparse_initializer for graph in (model.graph, *inner))


def all_kept(original: onnx.ModelProto, reason: str) -> Folded:
    """Return an unfolded copy, with the same reason for every layer."""
    layers = tuple(
        LayerFold(name=layer.name, status="kept", rule=None, reason=reason)
        for layer in find_layers(read_graph(original))
    )
    return Folded(model=copied(original), layers=layers)


def copied(original: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(original)
    return copy
