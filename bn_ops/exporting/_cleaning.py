"""Simplify the exported graph without changing what a layer computes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from bn_ops.exporting._exporter_steps import exporter_step

__all__ = ["clean"]

# Up to this size, weights are transposed or cast at export instead of at each run.
_MAX_FOLDED_BYTES = 256 * 2**20
_CONV_BIAS = 2


def clean(model: ir.Model) -> None:
    """Fold constants and remove no-ops, in place. BatchNormalization nodes are not changed."""
    with exporter_step("cleaning the ONNX graph", module=None):
        passes.InlinePass()(model)
        _drop_unused_outputs(model)
        # The exporter leaves values inside an operator's translation without a type.
        passes.ShapeInferencePass()(model)
        _name_cast_targets(model)
        _fold_constants(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        for node in model.graph:
            _drop_zero_bias(node)
            _fix_reshape(node)
        passes.IdentityEliminationPass()(model)
        passes.RemoveUnusedNodesPass()(model)
        passes.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
        passes.RemoveUnusedOpsetsPass()(model)
        passes.OutputFixPass()(model)
        passes.TopologicalSortPass()(model)


def _fold_constants(model: ir.Model) -> None:
    from onnxscript import optimizer  # noqa: PLC0415 - takes seconds to load

    optimizer.fold_constants(
        model,
        input_size_limit=_MAX_FOLDED_BYTES,
        output_size_limit=_MAX_FOLDED_BYTES,
        should_fold=_may_fold,
    )


def _may_fold(node: ir.Node) -> bool | None:
    return False if node.op_type == "BatchNormalization" else None


def _name_cast_targets(model: ir.Model) -> None:
    """Replace CastLike by Cast where the type is known, so that casts of constants fold."""
    for node in model.graph:
        like = node.inputs[1] if node.op_type == "CastLike" else None
        if like is not None and like.dtype is not None:
            node.op_type = "Cast"
            node.attributes.clear()
            node.attributes.add(ir.AttrInt64("to", like.dtype.value))
            node.resize_inputs(1)


def _drop_unused_outputs(model: ir.Model) -> None:
    """Drop unused outputs of BatchNormalization, which would imply training mode."""
    for node in model.graph:
        unread = not any(value.uses() for value in node.outputs[1:])
        if node.op_type == "BatchNormalization" and len(node.outputs) > 1 and unread:
            node.resize_outputs(1)


def _drop_zero_bias(node: ir.Node) -> None:
    """Drop the zeros added for a convolution without bias; a parameter of zeros is kept."""
    if node.op_type not in {"Conv", "ConvTranspose"} or len(node.inputs) <= _CONV_BIAS:
        return
    bias = node.inputs[_CONV_BIAS]
    if bias is None or not _is_computed(bias) or bias.const_value is None:
        return
    if not np.any(bias.const_value.numpy()):
        node.resize_inputs(_CONV_BIAS)


def _is_computed(value: ir.Value) -> bool:
    return value.metadata_props.get("bnrecal.source") != "state" and (
        value.name is None or value.name.startswith("val_")
    )


def _fix_reshape(node: ir.Node) -> None:
    """Replace a Reshape target with one computed size by a constant with -1.

    A Reshape keeps the number of elements, so one size follows from the others as long as none of
    them is 0 or -1 itself.
    """
    if node.op_type != "Reshape" or node.inputs[1] is None:
        return
    sizes = _concatenated(node.inputs[1])
    if sizes is None or sizes.count(None) != 1:
        return
    known = [size for size in sizes if size is not None]
    if any(size <= 0 for size in known):
        return
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    target = np.array([-1 if size is None else size for size in sizes], dtype=np.int64)
    name = f"val_{node.outputs[0].name}_shape"
    value = ir.Value(
        name=name,
        type=ir.TensorType(ir.DataType.INT64),
        shape=ir.Shape(target.shape),
        const_value=ir.Tensor(target, name=name),
    )
    graph.register_initializer(value)
    node.replace_input_with(1, value)


def _concatenated(shape: ir.Value) -> list[int | None] | None:
    """Return the elements of a Concat of single sizes: constants as ints, others as None."""
    producer = shape.producer()
    if producer is None or producer.op_type != "Concat":
        return None
    sizes: list[int | None] = []
    for piece in producer.inputs:
        if piece is None:
            return None
        if piece.const_value is not None:
            sizes.extend(int(size) for size in piece.const_value.numpy().reshape(-1))
        elif _is_one_size(piece):
            sizes.append(None)
        else:
            return None
    return sizes


def _is_one_size(piece: ir.Value) -> bool:
    """Return whether a value is a vector of one size, such as Reshape(scalar, [-1])."""
    if piece.shape is not None and tuple(piece.shape) == (1,):
        return True
    producer = piece.producer()
    if producer is None:
        return False
    if producer.op_type == "Reshape":
        source = producer.inputs[0]
        return source is not None and source.shape is not None and len(source.shape) == 0
    if producer.op_type == "Shape":
        start, end = producer.attributes.get("start"), producer.attributes.get("end")
        return start is not None and end is not None and end.as_int() == start.as_int() + 1
    return False
