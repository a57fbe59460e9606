"""Arithmetic on sizes that may be symbolic, and moving a map across a change of shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bn_ops.folding.affine import ChannelAffine, Float64Array

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bn_ops.folding.shapes import Dim

__all__ = ["Size", "Sizes", "carry", "product", "quotient", "size_of"]

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
