"""Reshape, Flatten, Squeeze and Unsqueeze, which keep the order of elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Refusal
from bn_ops.folding.rules.base import Rule, Walk
from bn_ops.folding.sizes import Size, Sizes, carry, product, quotient, size_of

if TYPE_CHECKING:
    import onnx_ir as ir

    from bn_ops.folding.affine import ChannelAffine

__all__ = ["ReshapeRule"]

SHAPE = AXES = 1
ONE = Size(number=1)


class ReshapeRule(Rule):
    """Moves the map to the axis of the other shape that separates the same elements."""

    name: ClassVar[str] = "reshape"
    ops: ClassVar[frozenset[str]] = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})

    def backward(self, node: ir.Node, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass the map on to the input."""
        sizes, value = _sizes(node, walk), node.inputs[0]
        if sizes is None or value is None:
            return _declined(node)
        carried = carry(affine, sizes[1], sizes[0])
        if carried is None:
            return _declined(node)
        onward = walk.backward(value, carried)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)

    def forward(self, node: ir.Node, index: int, affine: ChannelAffine, walk: Walk) -> Outcome:
        """Pass the map on to the output."""
        sizes = _sizes(node, walk) if index == 0 else None
        carried = None if sizes is None else carry(affine, sizes[0], sizes[1])
        if carried is None:
            return _declined(node)
        onward = walk.forward(node.outputs[0], carried)
        return onward if isinstance(onward, Refusal) else onward.via(self.name)


def _declined(node: ir.Node) -> Refusal:
    return Refusal(reason=f"{describe(node)} does not provably keep the channels separate")


def _sizes(node: ir.Node, walk: Walk) -> tuple[Sizes, Sizes] | None:
    """Return the sizes before and after; None if they are not known well enough."""
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
    removed = {axis % len(before) for axis in axes} if before else set()
    return tuple(size for axis, size in enumerate(before) if axis not in removed)


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
    requested = walk.constants.ints(node, SHAPE)
    if requested is None:
        return _computed_shape(node, before, walk)
    if 0 in requested and node.attributes.get_int("allowzero", 0) != 0:
        return None
    after: list[Size | None] = []
    for axis, size in enumerate(requested):
        if size == 0:
            if axis >= len(before):
                return None
            after.append(before[axis])
        else:
            after.append(Size(number=size) if size > 0 else None)
    return _filled(before, after)


def _computed_shape(node: ir.Node, before: tuple[Size, ...], walk: Walk) -> Sizes | None:
    """Use the shape that inference derived through Shape, Gather and Concat."""
    dims = walk.shapes.dims(node.outputs[0])
    if dims is None:
        return None
    known = {name for size in before for name in size.free}
    after = [None if isinstance(dim, str) and dim not in known else size_of(dim) for dim in dims]
    return _filled(before, after)


def _filled(before: tuple[Size, ...], after: list[Size | None]) -> Sizes:
    """Derive a single missing size from the number of elements, where that is certain."""
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
