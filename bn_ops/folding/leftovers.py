"""Writing kept layers as Mul and Add, for accelerators without BatchNormalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bn_ops.folding.affine import MATRIX, ChannelAffine, along
from bn_ops.folding.names import layer_name
from bn_ops.folding.numbers import FLOATS, cast_fault

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.editor import Editor
    from bn_ops.folding.shapes import Shapes

__all__ = ["write_as_mul_add"]


def write_as_mul_add(
    layer: ir.Node,
    affine: ChannelAffine,
    *,
    editor: Editor,
    shapes: Shapes,
) -> bool:
    """Replace a layer by `Mul(x, a)` and `Add(·, b)`, a and b of shape (C, 1, …). In place.

    Returns:
        Whether it could be done: the input's rank and element type must be known, and hold a and b.
    """
    source = layer.inputs[0]
    assert source is not None  # the layer has been read
    rank, dtype = shapes.rank(source), shapes.dtype(source)
    if rank is None or rank < MATRIX or dtype not in FLOATS:
        return False
    scale = along(affine.scale, axis=1, rank=rank)
    shift = along(affine.shift, axis=1, rank=rank)
    if cast_fault(scale, dtype) == "overflow" or cast_fault(shift, dtype) == "overflow":
        return False
    name = layer_name(layer)
    product = editor.insert("Mul", layer, source, editor.constant(f"{name}.scale", scale, dtype))
    total = editor.insert(
        "Add", product, product.outputs[0], editor.constant(f"{name}.shift", shift, dtype)
    )
    editor.substitute(layer, total)
    return True
