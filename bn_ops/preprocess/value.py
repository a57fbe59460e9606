"""What is done to each image, as one frozen value.

The steps and their defaults are those of torchvision's reference transforms on PIL images, `Resize`
→ `CenterCrop` → `ToTensor` → `Normalize`; what differs is said where it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bn_ops.core.json_form import Json, jsonable
from bn_ops.errors import OptionError

__all__ = ["COLOURS", "MOST_PIXELS", "Preprocess", "Resize"]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
# Without a filter that widens as the image shrinks; the others are defined by that filter.
UNFILTERED = ("nearest", "bilinear")
COLOURS: Mapping[str, int] = MappingProxyType({"rgb": 3, "bgr": 3, "grey": 1})
LAYOUTS = ("nchw", "nhwc")
DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8")
# An image of so many pixels takes 200 MB as RGB; Pillow itself begins to warn a little above.
MOST_PIXELS = 1 << 26
LEVELS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """How an image is brought to a size.

    Attributes:
        size: of the shorter side, the other follows in proportion; or (height, width).
        interpolation: one of `INTERPOLATIONS`.
        antialias: whether the filter widens as the image shrinks. PIL, and so torchvision on PIL
            images, always does; False is for pipelines that do not, and takes `UNFILTERED` only.
    """

    size: int | tuple[int, int]
    interpolation: str = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        _check_sides("resize.size", sides)
        if self.interpolation not in INTERPOLATIONS:
            raise OptionError(
                f"preprocess: resize.interpolation is {self.interpolation!r}; "
                f"there are {', '.join(INTERPOLATIONS)}"
            )
        if not self.antialias and self.interpolation not in UNFILTERED:
            raise OptionError(
                f"preprocess: resize.antialias can be false only with {' or '.join(UNFILTERED)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """What is done to each image, in this order.

    Attributes:
        orientation: `ignore` or `apply` what EXIF says about how the camera was held. torchvision's
            loader ignores it, OpenCV's applies it.
        colour: `rgb`, `bgr` or `grey` (ITU-R 601-2 luma); transparency is dropped.
        resize: to which size, or None.
        crop: (height, width) of the middle that stays, padded with black where the image is
            smaller; or None.
        scale: factor of each 8-bit level; `ToTensor` is 1/255.
        mean, std: subtracted, then divided by; one number, or one for each channel in the order of
            `colour`.
        layout: `nchw` or `nhwc`.
        dtype: of the array. Each value is computed in float64 and rounded once, so it is within two
            units in the last place of torchvision's float32 arithmetic.
    """

    orientation: str = "ignore"
    colour: str = "rgb"
    resize: Resize | None = None
    crop: tuple[int, int] | None = None
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "nchw"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, known in (
            ("orientation", ("ignore", "apply")),
            ("colour", tuple(COLOURS)),
            ("layout", LAYOUTS),
            ("dtype", DTYPES),
        ):
            if getattr(self, name) not in known:
                said = getattr(self, name)
                raise OptionError(f"preprocess: {name} is {said!r}; there are {', '.join(known)}")
        if self.crop is not None:
            _check_sides("crop", self.crop)
        self._check_numbers()

    @property
    def channels(self) -> int:
        """Number of channels."""
        return COLOURS[self.colour]

    @staticmethod
    def preset(name: str) -> Preprocess:
        """Return a common preprocessing without resizing; see `bn_ops.preprocess.presets`.

        Args:
            name: `imagenet`, `unit` (0…1), `tf` (−1…1), `caffe` (BGR, means subtracted) or `none`
                (0…255).

        Raises:
            OptionError: there is no preset of that name.
        """
        from bn_ops.preprocess.presets import preset  # noqa: PLC0415 - presets are values of this

        return preset(name)

    def levels(self) -> NDArray[Any]:
        """Return what each 8-bit level becomes, of shape (channels, 256) and type `dtype`."""
        levels = np.arange(LEVELS, dtype=np.float64)[None, :] * self.scale
        mean, std = (np.array(values, np.float64)[:, None] for values in (self.mean, self.std))
        with np.errstate(over="ignore"):
            exact = np.broadcast_to((levels - mean) / std, (self.channels, LEVELS))
            dtype = ml_dtypes.bfloat16 if self.dtype == "bfloat16" else np.dtype(self.dtype)
            return exact.astype(dtype)

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form, every member written out."""
        form = jsonable(self)
        assert isinstance(form, dict)
        return form

    def _check_numbers(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) not in {1, self.channels}:
                raise OptionError(
                    f"preprocess: {name} has {len(values)} numbers, {self.colour} images have "
                    f"{self.channels} channels"
                )
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))) or 0.0 in self.std:
            raise OptionError("preprocess: scale, mean and std are finite, and std is not 0")
        plain = (self.scale, set(self.mean), set(self.std)) == (1.0, {0.0}, {1.0})
        if self.dtype == "uint8" and not plain:
            raise OptionError("preprocess: uint8 goes with scale 1, mean 0 and std 1 only")
        if not np.isfinite(self.levels().astype(np.float64)).all():
            raise OptionError(f"preprocess: scale, mean and std lead out of {self.dtype}'s range")


def _check_sides(name: str, sides: tuple[int, int]) -> None:
    if min(sides) < 1 or sides[0] * sides[1] > MOST_PIXELS:
        raise OptionError(
            f"preprocess: {name} is {list(sides)}; sides are at least 1, and at most "
            f"{MOST_PIXELS} pixels in all"
        )
