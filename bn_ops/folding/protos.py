"""Between ModelProto and the graph core, without losing what the core has no place for."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from bn_ops.diagnostics.report import LayerFold
from bn_ops.errors import ModelInvalidError
from bn_ops.folding.already import all_nodes
from bn_ops.folding.layers import find_layers
from bn_ops.folding.result import Folded

__all__ = ["all_kept", "copied", "normalises", "read_graph", "stores_sparse", "write_graph"]


def read_graph(onnx_model: onnx.ModelProto) -> ir.Model:
    """Read a model into the graph core; weights are shared with the given one, not copied.

    Raises:
        ModelInvalidError: it is no well-formed graph.
    """
    try:
        return ir.from_proto(onnx_model)
    except (ValueError, TypeError, KeyError, AttributeError, ir.serde.SerdeError) as error:
        raise ModelInvalidError(f"the model cannot be read as a graph: {error}") from error


def write_graph(model: ir.Model, original: onnx.ModelProto) -> onnx.ModelProto:
    """Write a graph back, with what the core does not carry taken from the original."""
    written = ir.to_proto(model)
    # The graph core states the shape of every weight anew; the file says no more than it did.
    stated = {value.name for value in original.graph.value_info}
    kept = [value for value in written.graph.value_info if value.name in stated]
    del written.graph.value_info[:]
    written.graph.value_info.extend(kept)
    # The graph core has no place for training information; folding does not touch it.
    written.training_info.extend(original.training_info)
    return written


def stores_sparse(model: onnx.ModelProto) -> bool:
    """Tell whether any graph stores sparse tensors, which the graph core drops."""
    attributes = (attribute for node in all_nodes(model) for attribute in node.attribute)
    bodies = (body for attribute in attributes for body in (attribute.g, *attribute.graphs))
    return any(body.sparse_initializer for body in (model.graph, *bodies))


def normalises(model: onnx.ModelProto) -> bool:
    """Tell whether there is any BatchNormalization, bodies and functions included."""
    return any(node.op_type == "BatchNormalization" for node in all_nodes(model))


def all_kept(original: onnx.ModelProto, reason: str) -> Folded:
    """Hand out a copy, with one reason for every layer."""
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
