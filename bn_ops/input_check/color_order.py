"""Whether a network takes RGB or BGR, as far as its first layers show it.

The order of the colors changes the distance of the first layers by a few percent, which is less
than the difference between two photographs. Crops of the same photograph, or frames of the same
video, all show the same difference, so that hundreds of them prove no more than one. They are
therefore grouped into scenes, and the standard error is taken over scenes.

Two images belong to the same scene if they share a quarter of their palette, directly or through
other images. For 64 crops of 1 to 7 photographs, of 32 to 128 pixels a side, this finds at most
one scene more than there are photographs, and usually fewer: two photographs of the sea share a
palette as well. Too few scenes leave the order undecided, which is the safe answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bn_ops.input_check.result import ColorOrder
from bn_ops.input_check.sample_moments import Groups, SampleMoments, is_closer, median_distance
from bn_ops.input_check.value_ranges import Candidate

__all__ = ["is_colorful", "order_of", "scenes_of"]

# The order of the colors is reported only where the first layers see nearly what they saw in
# training: under a color cast the wrong order may fit better, as significantly as one likes.
_MAX_DISTANCE = 0.4

# Standard deviation of red minus blue, in 8-bit levels, below which pictures count as gray:
# they hold no information on the order of the colors.
_MIN_DEVIATION = 8.0

# Mean of red minus blue, in 8-bit levels, beyond which the pictures have a cast. ImageNet has 20.
_MAX_CAST = 30.0

# Two orders whose distances differ by less than this share are not distinguished.
_MIN_GAIN = 0.05

# Bins of each color in a palette.
_BINS = 16

# Share of the pixels that two palettes have in common within a scene. The median of two crops of
# the same photograph is 0.7, of two photographs 0.04.
_SAME_SCENE = 0.25


def is_colorful(pixels: NDArray[np.floating]) -> bool:
    """Return whether pictures have colors, and no cast, so that an order can show.

    Args:
        pixels: 0…255, shape (n, C, H, W), C = 1 or 3.
    """
    if pixels.shape[1] == 1:
        return False
    difference = pixels[:, 0] - pixels[:, -1]
    varied = float(difference.std(dtype=np.float64)) >= _MIN_DEVIATION
    return varied and abs(float(difference.mean(dtype=np.float64))) <= _MAX_CAST


def order_of(orders: Sequence[tuple[Candidate, SampleMoments]], scenes: Groups) -> ColorOrder:
    """Return the color order that fits significantly better, or `undecided`.

    Args:
        orders: one preprocessing in its two orders, and the moments of the same images under each.
        scenes: the scene of each image.
    """
    distances = [median_distance(moments) for _, moments in orders]
    best = int(np.argmin(distances))
    significant = (
        distances[best] <= _MAX_DISTANCE
        and distances[best] <= (1 - _MIN_GAIN) * max(distances)
        and is_closer(orders[best][1], orders[1 - best][1], scenes)
    )
    if not significant:
        return "undecided"
    return "bgr" if orders[best][0].preprocess.color == "bgr" else "rgb"


def scenes_of(pixels: NDArray[np.floating]) -> Groups:
    """Return the number of each picture's scene, shape (n,), from 0 on.

    Args:
        pixels: RGB, 0…255, shape (n, 3, H, W).
    """
    palettes = np.stack([_palette(picture) for picture in pixels])
    same = np.stack([np.minimum(one, palettes).sum(axis=1) for one in palettes]) >= _SAME_SCENE
    scenes = np.arange(len(palettes))
    for index in range(len(palettes)):
        # Every scene with a picture like this one becomes the same scene.
        joined = np.isin(scenes, scenes[same[index]])
        scenes[joined] = scenes[index]
    return np.asarray(np.unique(scenes, return_inverse=True)[1], dtype=np.intp)


def _palette(picture: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the share of a picture's pixels in each of 4096 bins of color."""
    bins = np.clip(picture, 0, 255).astype(np.intp) * _BINS // 256
    index = (bins[0] * _BINS + bins[1]) * _BINS + bins[2]
    shares = np.bincount(index.ravel(), minlength=_BINS**3) / index.size
    return np.asarray(shares, dtype=np.float32)
