"""Test images, and an independent float64 implementation of torchvision's transforms."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]


def picture(width: int = 40, height: int = 30, seed: int = 0) -> Pixels:
    """Return noise on a gradient, (H, W, 3)."""
    random = np.random.default_rng(seed)
    slope = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 80, width))[:, :, None]
    values: Pixels = (slope + random.integers(0, 56, size=(height, width, 3))).astype(np.uint8)
    return values


def encoded(pixels: Pixels, kind: str = "PNG", **options: Any) -> bytes:
    """Encode pixels as an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def vast() -> bytes:
    """Return a PNG of a few kilobytes with a hundred million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (100_000, 1_000)).save(buffer, "PNG")
    return buffer.getvalue()


def _triangle(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _cubic(x: float) -> float:
    # Cubic convolution kernel (Keys 1981) with a = -0.5.
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def _box(x: float) -> float:
    return 1.0 if -0.5 < x <= 0.5 else 0.0


def _hamming(x: float) -> float:
    x = abs(x)
    if x >= 1:
        return 0.0
    return (
        1.0
        if x == 0
        else math.sin(math.pi * x) / (math.pi * x) * (0.54 + 0.46 * math.cos(math.pi * x))
    )


def _lanczos(x: float) -> float:
    x = abs(x)
    if x >= 3:
        return 0.0
    return 1.0 if x == 0 else float(np.sinc(x) * np.sinc(x / 3))


FILTERS: dict[str, tuple[Callable[[float], float], float]] = {
    "bilinear": (_triangle, 1.0),
    "bicubic": (_cubic, 2.0),
    "box": (_box, 0.5),
    "hamming": (_hamming, 1.0),
    "lanczos": (_lanczos, 3.0),
}


def weights(old: int, new: int, name: str, *, antialias: bool = True) -> NDArray[np.float64]:
    """Return the matrix (new, old) of resampling along one axis.

    The center of output pixel i is at (i + 0.5) · old / new. The kernel is scaled by old / new if
    the image shrinks and `antialias` is set. Weights are normalized over the existing pixels.
    """
    kernel, support = FILTERS[name]
    step = old / new
    stretch = max(step, 1.0) if antialias else 1.0
    matrix = np.zeros((new, old))
    for i in range(new):
        center = (i + 0.5) * step
        for j in range(old):
            distance = (j + 0.5 - center) / stretch
            if abs(distance) < support + 1e-9:
                matrix[i, j] = kernel(distance)
    if not antialias:
        # Outside the image the border is repeated, so the missing weight belongs to the border.
        matrix[0 : new // 2, 0] += 1 - matrix[0 : new // 2].sum(1)
        matrix[new // 2 :, -1] += 1 - matrix[new // 2 :].sum(1)
    total: NDArray[np.float64] = matrix / matrix.sum(1, keepdims=True)
    return total


def resized(
    pixels: Pixels, size: tuple[int, int], name: str, *, antialias: bool = True
) -> NDArray[np.float64]:
    """Resample (H, W, C) to (height, width) without intermediate rounding."""
    rows = weights(pixels.shape[0], size[0], name, antialias=antialias)
    columns = weights(pixels.shape[1], size[1], name, antialias=antialias)
    found: NDArray[np.float64] = np.einsum("ih,jw,hwc->ijc", rows, columns, pixels.astype(float))
    return np.clip(found, 0, 255)


def shorter_side(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width) after torchvision's Resize(int)."""
    short, long = min(height, width), max(height, width)
    new_long = int(size * long / short)
    return (size, new_long) if height <= width else (new_long, size)


def center_crop(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return torchvision's CenterCrop of (H, W, C)."""
    height, width = values.shape[:2]
    if size[0] > height or size[1] > width:
        left = (size[1] - width) // 2 if size[1] > width else 0
        top = (size[0] - height) // 2 if size[0] > height else 0
        right = (size[1] - width + 1) // 2 if size[1] > width else 0
        bottom = (size[0] - height + 1) // 2 if size[0] > height else 0
        values = np.pad(values, [(top, bottom), (left, right), (0, 0)])
        height, width = values.shape[:2]
    top, left = round((height - size[0]) / 2.0), round((width - size[1]) / 2.0)
    return values[top : top + size[0], left : left + size[1]]
