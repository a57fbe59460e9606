"""The affine map along one axis that a BatchNormalization computes and rules pass on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bn_ops.core.statistics import Float64Array

__all__ = ["MATRIX", "ChannelAffine", "Float64Array", "along"]


MATRIX = 2
"""Rank of a matrix."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelAffine:
    """`y = scale[c]·x + shift[c]`, where c is the index on `axis`.

    Attributes:
        scale: shape (C,), float64.
        shift: shape (C,), float64.
        axis: the channel axis, counted from the left, non-negative.
    """

    scale: Float64Array
    shift: Float64Array
    axis: int

    @property
    def channels(self) -> int:
        """Return the number of channels C."""
        return int(self.scale.shape[0])

    @property
    def shifts(self) -> bool:
        """Return whether any channel is shifted."""
        return bool(np.any(self.shift != 0.0))

    @property
    def scales(self) -> bool:
        """Return whether any channel is scaled."""
        return bool(np.any(self.scale != 1.0))

    def on_axis(self, axis: int) -> ChannelAffine:
        """Return the same map on another axis."""
        return replace(self, axis=axis)

    def scale_only(self) -> ChannelAffine:
        """Return the map without its shift."""
        return replace(self, shift=np.zeros_like(self.shift))

    def part(self, start: int, stop: int) -> ChannelAffine:
        """Return the map of the channels in the half-open range from `start` to `stop`."""
        return replace(self, scale=self.scale[start:stop], shift=self.shift[start:stop])

    def after(self, first: ChannelAffine) -> ChannelAffine:
        """Return the map that applies `first`, then this one."""
        return replace(
            self, scale=self.scale * first.scale, shift=self.scale * first.shift + self.shift
        )


def along(vector: Float64Array, *, axis: int, rank: int) -> Float64Array:
    """Reshape (C,) to (C, 1, …, 1), to broadcast along `axis` of a tensor of that rank."""
    return vector.reshape((-1,) + (1,) * (rank - axis - 1))
