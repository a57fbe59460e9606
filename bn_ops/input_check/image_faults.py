"""Faults of image batches that show in the pixels alone: constant images, a blank channel, layout.

An array in the layout (N, H, W, 3) that was reshaped, instead of transposed, to (N, 3, H, W) keeps
its memory order. Vertical neighbors then lie 3·W values apart in memory; in real planes they lie W
apart. So the mean absolute difference at distance 3·W over that at distance W is above 1 in planes,
1 in white noise, and well below 1 in interleaved memory, for gray pictures as well as for colorful
ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.moments import measure
from bn_ops.core.reduction import reduce_rows
from bn_ops.core.statistics import Float64Array

__all__ = ["Planes", "blank_channels", "constant_samples", "is_flat", "is_interleaved", "planes_of"]

_AXES = 4
_COLORS = 3

# Range of a sample, or standard deviation of a channel, relative to that of all values, at which it
# counts as constant: float16 has 11 bits, so equal pixels stay equal within this.
_CONSTANT = 1e-3

# Standard deviation relative to the largest magnitude: 0.64 gray levels around a medium gray.
_FLAT = 5e-3

# Vertical differences of the other layout over those of the claimed one; see above. Noise, which
# has no layout, gives 1.
_WRONG_LAYOUT = 0.85

# With fewer positions, differences of neighbors are not informative.
_MIN_SIDE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Planes:
    """Image samples with channels first.

    Attributes:
        values: shape (n, C, H, W), float64 or float32; C is 1 or 3.
        channels_last: whether the model takes the channels as the last axis.
    """

    values: NDArray[np.floating]
    channels_last: bool

    @property
    def channels(self) -> int:
        """Number of channels: 1 or 3."""
        return int(self.values.shape[1])


def planes_of(arrays: Sequence[NDArray[np.generic]]) -> Planes | None:
    """Return image batches as one array of planes, or None where the arrays are not images.

    Args:
        arrays: batches of one input. Images have four axes, and one or three channels in the
            second or in the last one.
    """
    if not arrays or any(array.ndim != _AXES for array in arrays):
        return None
    if len({array.shape[1:] for array in arrays}) != 1:
        return None
    stacked = np.concatenate(arrays)
    if stacked.dtype.kind not in "fiu" and stacked.dtype.name != "bfloat16":
        return None
    kind = np.float64 if stacked.dtype == np.float64 else np.float32
    # Arrays of torch's channels_last tensors are in another order, which `concatenate` keeps.
    wide: NDArray[np.floating] = stacked.astype(kind, order="C", copy=False)
    first, last = stacked.shape[1] in {1, _COLORS}, stacked.shape[3] in {1, _COLORS}
    if first:
        return Planes(values=wide, channels_last=False)
    return Planes(values=wide.transpose(0, 3, 1, 2), channels_last=True) if last else None


def constant_samples(planes: Planes) -> NDArray[np.bool_]:
    """Return which samples have the same value at every position of each channel, shape (n,)."""
    # Interleaved channels would take 30 times as long.
    values = np.ascontiguousarray(planes.values)
    high, low = values.max(axis=(2, 3)), values.min(axis=(2, 3))
    # A set of constant images may differ from image to image: that is not spread within one.
    highest, lowest = high.max(), low.min()
    scale = max(float(highest - lowest), float(max(abs(highest), abs(lowest))))
    return np.asarray((high - low <= _CONSTANT * scale).all(axis=1))


def is_flat(planes: Planes) -> bool:
    """Return whether the values of every channel vary by less than an 8-bit level of gray.

    A value divided by 255 once too often before a mean is subtracted leaves such images.
    """
    return float(_deviation(planes).max()) <= _FLAT * float(np.abs(planes.values).max())


def blank_channels(planes: Planes) -> tuple[int, ...]:
    """Return the channels of color images that hold one value while another channel does not."""
    if planes.channels != _COLORS:
        return ()
    deviation = _deviation(planes)
    blank = deviation <= _CONSTANT * deviation.max()
    return () if blank.all() else tuple(int(i) for i in np.flatnonzero(blank))


def _deviation(planes: Planes) -> Float64Array:
    """Return the standard deviation of each channel, shape (C,)."""
    # numpy's own takes 37 ms for 32 images of 224x224, in every run.
    return np.sqrt(measure(planes.values).var_population)


def is_interleaved(planes: Planes) -> bool:
    """Return whether color images were reshaped between channels-first and channels-last.

    Constant images and images of fewer than eight pixels a side are never reported.
    """
    if planes.channels != _COLORS or min(planes.values.shape[2:]) < _MIN_SIDE:
        return False
    ratios = _vertical_ratios(planes)
    return bool(ratios.size and np.median(ratios) < _WRONG_LAYOUT)


def _vertical_ratios(planes: Planes) -> Float64Array:
    """Return, for each sample that is not constant, the ratio of vertical differences."""
    order = (0, 2, 3, 1) if planes.channels_last else (0, 1, 2, 3)
    memory = planes.values.transpose(order).reshape(planes.values.shape[0], -1)
    width = planes.values.shape[3]
    planar, interleaved = _step(memory, width), _step(memory, _COLORS * width)
    claimed, other = (interleaved, planar) if planes.channels_last else (planar, interleaved)
    varied = claimed > 0
    return other[varied] / claimed[varied]


def _step(memory: NDArray[np.floating], distance: int) -> Float64Array:
    """Return each sample's mean absolute difference of values a distance apart."""
    step = memory[:, distance:] - memory[:, :-distance]
    means, _ = reduce_rows(np.abs(step, out=step))
    return means
