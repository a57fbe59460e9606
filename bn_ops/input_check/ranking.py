"""Which common preprocessing makes a network's first layers see what they saw in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.errors import OptionError
from bn_ops.input_check.color_order import is_colorful, order_of, scenes_of
from bn_ops.input_check.result import ColorOrder, PreprocessingScore
from bn_ops.input_check.sample_moments import Groups, SampleMoments, median_distance
from bn_ops.input_check.value_ranges import Candidate, candidates

__all__ = ["Measure", "planes_of", "scored"]

Measure = Callable[[NDArray[np.float32]], SampleMoments]
"""Runs preprocessed images of shape (n, C, H, W) through the first layers."""

# Axes of an array of gray and of RGB images.
_IMAGE_AXES = (3, 4)


def scored(pixels: NDArray[np.floating], measure: Measure) -> tuple[PreprocessingScore, ...]:
    """Rank the common preprocessings of RGB or gray pixels 0…255, the closest first.

    Args:
        pixels: shape (n, C, H, W), C = 1 or 3.
        measure: runs preprocessed images through the network's first layers.
    """
    found = [(c, measure(c.apply(pixels))) for c in candidates(int(pixels.shape[1]))]
    names = dict.fromkeys(candidate.name for candidate, _ in found)
    scenes = scenes_of(pixels) if is_colorful(pixels) else None
    scores = (_score([one for one in found if one[0].name == name], scenes) for name in names)
    return tuple(sorted(scores, key=lambda score: score.distance))


def _score(
    orders: Sequence[tuple[Candidate, SampleMoments]], scenes: Groups | None
) -> PreprocessingScore:
    """Score one preprocessing, in its own color order or in the significantly better one."""
    order: ColorOrder = "gray" if len(orders) == 1 else "undecided"
    chosen, moments = orders[0]
    if scenes is not None and len(orders) > 1:
        order = order_of(orders, scenes)
        if order != "undecided":
            chosen, moments = next(one for one in orders if one[0].preprocess.color == order)
    return PreprocessingScore(
        name=chosen.name,
        preprocess=chosen.preprocess,
        color_order=order,
        distance=median_distance(moments),
    )


def planes_of(images: Any) -> NDArray[np.uint8]:
    """Return images as planes (n, C, H, W).

    Raises:
        OptionError: they are not uint8 images of one size, gray or RGB.
    """
    try:
        array = np.stack([np.asarray(image) for image in images])
    except (ValueError, TypeError) as error:
        raise OptionError(f"images have one size, which the model takes: {error}") from error
    if array.dtype != np.uint8 or array.ndim not in _IMAGE_AXES:
        raise OptionError(
            f"images are uint8 of shape (n, H, W, 3) or (n, H, W), got {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    planes = array[:, None] if array.ndim == min(_IMAGE_AXES) else array.transpose(0, 3, 1, 2)
    if planes.shape[1] not in {1, 3}:
        raise OptionError(f"images have one or three channels, got {planes.shape[1]}")
    return planes
