"""What shape goes into a Reshape, Flatten, Squeeze or Unsqueeze, and what shape comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bn_ops.folding.sizes import Size, Sizes, product, quotient, size_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.rules.base import Walk

__all__ = ["reshaped"]

SHAPE = AXES = 1
ONE = Size(number=1)


def reshaped(node: ir.Node, walk: Walk) -> tuple[Sizes, Sizes] | None:
    """Return the sizes before and after; None where they are not known well enough."""
    dims = walk.shapes.dims(node.inputs[0])
    if dims is None:
        return None
    before = tuple(size_of(dim) for dim in dims)
    after = _AFTER[node.op_type](node, before, walk)
    return None if after is None else (before, after)


def _flatten(node: ir.Node, before: tuple[Size, ...], walk: Walk) -> Sizes | None:
    del walk
    axis = node.attributes.get_int("axis", 1)
    axis = axis + len(before) if axis < 0 else axis
    return product(before[:axis]), product(before[axis:])


def _squeeze(node: ir.Node, before: tuple[Size, ...], walk: Walk) -> Sizes | None:
    axes = _axes(node, walk)
    if axes is None:
        if len(node.inputs) > AXES or any(size.free for size in before):
            return None
        return tuple(size for size in before if size != ONE)
    gone = {axis % len(before) for axis in axes} if before else set()
    return tuple(size for axis, size in enumerate(before) if axis not in gone)


def _unsqueeze(node: ir.Node, before: tuple[Size, ...], walk: Walk) -> Sizes | None:
    axes = _axes(node, walk)
    if axes is None:
        return None
    rank = len(before) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(before)
    return tuple(ONE if axis in new else next(rest, None) for axis in range(rank))


def _axes(node: ir.Node, walk: Walk) -> tuple[int, ...] | None:
    if len(node.inputs) > AXES and node.inputs[AXES] is not None:
        return walk.constants.ints(node, AXES)
    found = node.attributes.get_ints("axes", None)
    return None if found is None else tuple(found)


def _reshape(node: ir.Node, before: tuple[Size, ...], walk: Walk) -> Sizes | None:
    wanted = walk.constants.ints(node, SHAPE)
    if wanted is None:
        return _computed_shape(node, before, walk)
    if 0 in wanted and node.attributes.get_int("allowzero", 0) != 0:
        return None
    after: list[Size | None] = []
    for axis, size in enumerate(wanted):
        if size == 0:
            if axis >= len(before):
                return None
            after.append(before[axis])
        else:
            after.append(Size(number=size) if size > 0 else None)
    return _filled(before, after)


def _computed_shape(node: ir.Node, before: tuple[Size, ...], walk: Walk) -> Sizes | None:
    """Use what shape inference followed through Shape, Gather and Concat."""
    dims = walk.shapes.dims(node.outputs[0])
    if dims is None:
        return None
    known = {name for size in before for name in size.free}
    after = [None if isinstance(dim, str) and dim not in known else size_of(dim) for dim in dims]
    return _filled(before, after)


def _filled(before: tuple[Size, ...], after: list[Size | None]) -> Sizes:
    """Work out the one size that is missing from the number of elements, where that is certain."""
    gaps = [axis for axis, size in enumerate(after) if size is None]
    if len(gaps) == 1:
        others = product(size for size in after if size is not None)
        after[gaps[0]] = quotient(product(before), others)
    return tuple(after)


_AFTER = {
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}
