"""Common ways to turn 8-bit pixels into a network's input, and which of them an array shows.

Every candidate is affine per channel and maps the 256 levels of a pixel to 256 values. An array
whose values all lie on the levels of one candidate, and use most of them, was made by that
candidate. The range alone would not do: −1…1 images whose pixels are all bright have values in
0…1. Images that were resized or changed after the conversion to floating point cannot be
identified.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.statistics import Float64Array
from bn_ops.input_check.image_faults import Planes
from bn_ops.preprocess.presets import PRESETS
from bn_ops.preprocess.value import Preprocess

__all__ = ["Candidate", "candidates", "identify"]

_LEVELS = 255.0

# Distance from a level, in levels, that float32 arithmetic leaves.
_OFF_LEVEL = 0.02

# Share of the values that must be on a level.
_MIN_ON_LEVEL = 0.999

# Share of the 256 levels that must occur, in one channel at least. Bright −1…1 images use half of
# the levels of 0…1.
_MIN_USED = 0.6

# Values examined per channel: enough for every level of ordinary images to occur.
_MAX_VALUES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to preprocess images.

    Attributes:
        name: the preset's name; `imagenet twice` where it is normalized a second time.
        preprocess: the value without resizing, in the layout (N, C, H, W).
        twice: whether the normalization is applied to its own result.
    """

    name: str
    preprocess: Preprocess
    twice: bool = False

    def affine(self, channels: int) -> tuple[Float64Array, Float64Array]:
        """Return factor and offset of each channel, shape (channels,), in the candidate's order."""
        mean, std = (
            np.broadcast_to(np.array(values, np.float64), (channels,))
            for values in (self.preprocess.mean, self.preprocess.std)
        )
        factor = self.preprocess.scale / std
        return factor, -mean / std

    def apply(self, pixels: NDArray[np.floating]) -> NDArray[np.float32]:
        """Preprocess RGB or gray pixels 0…255 of shape (n, C, H, W)."""
        planes = pixels[:, ::-1] if self.preprocess.color == "bgr" else pixels
        factor, offset = self.affine(pixels.shape[1])
        return np.asarray(planes * factor[:, None, None] + offset[:, None, None], dtype=np.float32)

    def invert(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the RGB or gray pixels that values of shape (n, C, H, W) were made from."""
        factor, offset = self.affine(values.shape[1])
        planes = (values - offset[:, None, None]) / factor[:, None, None]
        ordered = planes[:, ::-1] if self.preprocess.color == "bgr" else planes
        return np.asarray(ordered, dtype=np.float32)


def candidates(channels: int) -> tuple[Candidate, ...]:
    """Return the common preprocessings of gray (1) or color (3) images, once and twice."""
    return tuple(_candidates(channels))


def _candidates(channels: int) -> Iterator[Candidate]:
    for name, preset in PRESETS.items():
        if channels == 1:
            if len(preset.mean) == 1:
                gray = replace(preset, color="gray")
                yield from _once_and_twice(name, gray)
            continue
        reverse = replace(preset, mean=preset.mean[::-1], std=preset.std[::-1])
        other = "rgb" if preset.color == "bgr" else "bgr"
        yield from _once_and_twice(name, preset)
        yield from _once_and_twice(name, replace(reverse, color=other))


def _once_and_twice(name: str, once: Preprocess) -> Iterator[Candidate]:
    yield Candidate(name=name, preprocess=once)
    if name == "none":
        return
    yield Candidate(name=f"{name} twice", preprocess=_again(name, once), twice=True)


def _again(name: str, once: Preprocess) -> Preprocess:
    """Return the normalization that equals another one applied twice."""
    if name == "unit":
        return replace(once, scale=once.scale**2)
    if name == "tf":
        # x → 2x − 1 on values that are −1…1 already.
        return replace(once, scale=2 * once.scale, mean=(3.0,))
    mean = np.array(once.mean)
    std = np.array(once.std)
    return (
        replace(once, mean=tuple((mean + mean * std).tolist()), std=tuple((std * std).tolist()))
        if name == "imagenet"
        else replace(once, mean=tuple((2 * mean).tolist()))
    )


def identify(planes: Planes) -> Candidate | None:
    """Return the normalization that the values show, or None where none is certain."""
    values = _sampled(planes)
    found = [c for c in candidates(planes.channels) if _explains(c, values)]
    return found[0] if found else None


def _sampled(planes: Planes) -> Float64Array:
    """Return values of every channel, evenly chosen from all samples, shape (C, values)."""
    values = planes.values.swapaxes(0, 1).reshape(planes.channels, -1)
    step = max(1, values.shape[1] // _MAX_VALUES)
    return np.asarray(values[:, ::step], dtype=np.float64)


def _explains(candidate: Candidate, values: Float64Array) -> bool:
    factor, offset = candidate.affine(len(values))
    levels = (values - offset[:, None]) / factor[:, None]
    nearest = np.round(levels)
    inside = (nearest >= 0) & (nearest <= _LEVELS)
    on_level = inside & (np.abs(levels - nearest) <= _OFF_LEVEL)
    if on_level.mean() < _MIN_ON_LEVEL:
        return False
    used = max(np.unique(row).size for row in nearest)
    return bool(used >= _MIN_USED * (_LEVELS + 1))
