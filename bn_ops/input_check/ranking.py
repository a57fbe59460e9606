"""Which common preprocessing makes a network's first layers see what they saw in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.errors import OptionError
from bn_ops.input_check.result import ColorOrder, PreprocessingScore
from bn_ops.input_check.sample_moments import SampleMoments, jackknife_distances, median_distance
from bn_ops.input_check.value_ranges import Candidate, candidates

__all__ = ["Measure", "is_closer", "planes_of", "scored"]

Measure = Callable[[NDArray[np.float32]], SampleMoments]
"""Runs preprocessed images of shape (n, C, H, W) through the first layers."""

# Standard errors that a difference of two distances must exceed. A normal deviate exceeds three in
# 0.3 % of cases.
_SIGNIFICANT = 3.0

# Fewer samples give no usable standard error.
_MIN_SAMPLES = 8

# The order of the colors is reported only where the first layers see nearly what they saw in
# training: under a color cast the wrong order may fit better, as significantly as one likes.
_MAX_COLOR_DISTANCE = 0.4

# Standard deviation of red minus blue, in 8-bit levels, below which pictures count as gray:
# they hold no information on the order of the colors.
_MIN_COLOR_DEVIATION = 8.0

# Mean of red minus blue, in 8-bit levels, beyond which the pictures have a cast. ImageNet has 20.
_MAX_CAST = 30.0

# Two orders whose distances differ by less than this share are not distinguished.
_MIN_COLOR_GAIN = 0.05

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
    colorful = _is_colorful(pixels)
    scores = (
        _score([one for one in found if one[0].name == name], colorful=colorful) for name in names
    )
    return tuple(sorted(scores, key=lambda score: score.distance))


def _is_colorful(pixels: NDArray[np.floating]) -> bool:
    """Return whether pictures have colors, and no cast, so that an order can show."""
    if pixels.shape[1] == 1:
        return False
    difference = pixels[:, 0] - pixels[:, -1]
    varied = float(difference.std(dtype=np.float64)) >= _MIN_COLOR_DEVIATION
    return varied and abs(float(difference.mean(dtype=np.float64))) <= _MAX_CAST


def _score(
    orders: Sequence[tuple[Candidate, SampleMoments]], *, colorful: bool
) -> PreprocessingScore:
    """Score one preprocessing, in its own color order or in the significantly better one."""
    distances = [median_distance(moments) for _, moments in orders]
    best = int(np.argmin(distances))
    chosen = 0
    order: ColorOrder = "undecided"
    if len(orders) == 1:
        order = "gray"
    elif (
        colorful
        and distances[best] <= _MAX_COLOR_DISTANCE
        and distances[best] <= (1 - _MIN_COLOR_GAIN) * max(distances)
        and is_closer(orders[best][1], orders[1 - best][1])
    ):
        chosen = best
        order = "bgr" if orders[best][0].preprocess.color == "bgr" else "rgb"
    candidate = orders[chosen][0]
    return PreprocessingScore(
        name=candidate.name,
        preprocess=candidate.preprocess,
        color_order=order,
        distance=distances[chosen],
    )


def is_closer(near: SampleMoments, far: SampleMoments) -> bool:
    """Return whether one preprocessing is significantly closer, on the same samples.

    The standard error of the difference of the two medians is the jackknife's, paired over samples.
    Source: Efron & Tibshirani, "An Introduction to the Bootstrap" (1993), section 11.4.
    """
    n = near.samples
    if n < _MIN_SAMPLES:
        return False
    difference = median_distance(far) - median_distance(near)
    left_out = jackknife_distances(far) - jackknife_distances(near)
    error = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    return bool(difference > _SIGNIFICANT * error)


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
