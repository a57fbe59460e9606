"""Reshape, Flatten, Squeeze and Unsqueeze, which keep the order of elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bn_ops.folding.affine import ChannelAffine, Float64Array
from bn_ops.folding.names import describe
from bn_ops.folding.plan import Outcome, Refusal
from bn_ops.folding.rules.base import Rule, Walk

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx_ir as ir

    from bn_ops.folding.shapes import Dim

__all__ = ["ReshapeRule", "Size", "Sizes", "carry", "product", "quotient", "size_of"]

# Arithmetic on sizes that may be symbolic, and moving a map across a change of shape.

_MAX_VECTOR = 1 << 26
"""Maximum length of a map that is expanded element by element (512 MiB of float64)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A product of a number and of symbolic sizes.

    Attributes:
        number: the known factor.
        free: names of the symbolic sizes, sorted; a name that occurs twice is squared.
    """

    number: int
    free: tuple[str, ...] = ()


Sizes = tuple[Size | None, ...]
"""A shape; None is an unknown size."""


def size_of(dim: Dim) -> Size:
    """Return one dimension of a shape as a product."""
    return Size(number=dim) if isinstance(dim, int) else Size(number=1, free=(dim,))


def product(sizes: Iterable[Size | None]) -> Size | None:
    """Multiply sizes; None if any factor is unknown."""
    number = 1
    free: list[str] = []
    for size in sizes:
        if size is None:
            return None
        number *= size.number
        free += size.free
    return Size(number=number, free=tuple(sorted(free)))


def quotient(whole: Size | None, part: Size | None) -> Size | None:
    """Divide sizes; None unless the division is known to be exact."""
    if whole is None or part is None or part.number == 0 or whole.number % part.number:
        return None
    rest = list(whole.free)
    for name in part.free:
        if name not in rest:
            return None
        rest.remove(name)
    return Size(number=whole.number // part.number, free=tuple(rest))


def carry(affine: ChannelAffine, source: Sizes, target: Sizes) -> ChannelAffine | None:
    """Move a map from an axis of one shape to an axis of another with the same element order.

    The axes before the channels must provably have the same number of elements on both sides. Then
    the map is either on an axis of the same size, or is expanded per element and reduced again.
    """
    if affine.axis >= len(source) or source[affine.axis] != Size(number=affine.channels):
        return None
    places = [d for d in range(len(target)) if _aligned(source, affine.axis, target, d)]
    for place in places:
        if target[place] == source[affine.axis]:
            return affine.on_axis(place)
    for place in places:
        scale = _respread(affine.scale, source, affine.axis, target, place)
        shift = _respread(affine.shift, source, affine.axis, target, place)
        if scale is not None and shift is not None:
            return ChannelAffine(scale=scale, shift=shift, axis=place)
    return None


def _aligned(source: Sizes, axis: int, target: Sizes, place: int) -> bool:
    before = product(source[:axis]), product(target[:place])
    behind = product(source[axis:]), product(target[place:])
    return any(left is not None and left == right for left, right in (before, behind))


def _respread(
    vector: Float64Array, source: Sizes, axis: int, target: Sizes, place: int
) -> Float64Array | None:
    """Repeat a vector over the axes after its own and reduce it to the other shape's axis."""
    inner, width = product(source[axis + 1 :]), target[place]
    behind = product(target[place + 1 :])
    if inner is None or width is None or behind is None:
        return None
    if inner.free or width.free or behind.free or inner.number * vector.size > _MAX_VECTOR:
        return None
    if inner.number * vector.size != width.number * behind.number or behind.number == 0:
        return None
    table = np.repeat(vector, inner.number).reshape(width.number, behind.number)
    return table[:, 0].copy() if bool(np.all(table == table[:, :1])) else None


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
