"""The preprocessing of images as one frozen value, with its JSON form.

The steps and their defaults are those of torchvision's reference transforms on PIL images, `Resize`
→ `CenterCrop` → `ToTensor` → `Normalize`; differences are documented where they occur.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bn_ops.core.json_form import Json, jsonable
from bn_ops.core.signature import ArrayHeader, TensorInfo, check_headers
from bn_ops.errors import BatchError, OptionError

__all__ = [
    "COLORS",
    "MAX_PIXELS",
    "Preprocess",
    "Resize",
    "check_preprocess",
    "preprocess_from_json",
]

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
# Can be used without a filter that widens as the image shrinks; the others are defined by it.
UNFILTERED = ("nearest", "bilinear")
COLORS: Mapping[str, int] = MappingProxyType({"rgb": 3, "bgr": 3, "gray": 1})
LAYOUTS = ("nchw", "nhwc")
DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8")
# An image of this size takes 200 MB as RGB; Pillow itself warns slightly above.
MAX_PIXELS = 1 << 26
LEVELS = 256
# Numbers accepted for mean or std before their count is checked.
_MAX_NUMBERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Resize:
    """Resizing of an image.

    Attributes:
        size: of the shorter side, preserving the aspect ratio; or (height, width).
        interpolation: one of `INTERPOLATIONS`.
        antialias: whether the filter widens as the image shrinks. PIL, and so torchvision on PIL
            images, always does; False is for pipelines that do not, and needs one of `UNFILTERED`.
    """

    size: int | tuple[int, int]
    interpolation: str = "bilinear"
    antialias: bool = True

    def __post_init__(self) -> None:
        sides = self.size if isinstance(self.size, tuple) else (self.size, self.size)
        _check_sides("resize.size", sides)
        if self.interpolation not in INTERPOLATIONS:
            raise OptionError(
                f"preprocess: resize.interpolation is {self.interpolation!r}, expected one of "
                f"{', '.join(INTERPOLATIONS)}"
            )
        if not self.antialias and self.interpolation not in UNFILTERED:
            raise OptionError(
                f"preprocess: resize.antialias can be false only with {' or '.join(UNFILTERED)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Steps applied to each image, in this order.

    Attributes:
        orientation: `ignore` or `apply` the EXIF orientation. torchvision's loader ignores it,
            OpenCV's applies it.
        color: `rgb`, `bgr` or `gray` (ITU-R 601-2 luma); transparency is dropped.
        resize: None for no resizing.
        crop: (height, width) of the center crop, padded with black where the image is smaller; None
            for no crop.
        scale: factor of each 8-bit level; `ToTensor` is 1/255.
        mean, std: subtracted from and divided into each value; one number, or one per channel in
            the order of `color`.
        layout: `nchw` or `nhwc`.
        dtype: element type of the array. Values are computed in float64 and rounded once, so they
            are within two units in the last place of torchvision's float32 arithmetic.
    """

    orientation: str = "ignore"
    color: str = "rgb"
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
            ("color", tuple(COLORS)),
            ("layout", LAYOUTS),
            ("dtype", DTYPES),
        ):
            if getattr(self, name) not in known:
                value = getattr(self, name)
                raise OptionError(
                    f"preprocess: {name} is {value!r}, expected one of {', '.join(known)}"
                )
        if self.crop is not None:
            _check_sides("crop", self.crop)
        self._check_numbers()

    @property
    def channels(self) -> int:
        """Return the number of channels."""
        return COLORS[self.color]

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
        """Return the result for each 8-bit level, of shape (channels, 256) and type `dtype`."""
        levels = np.arange(LEVELS, dtype=np.float64)[None, :] * self.scale
        mean, std = (np.array(values, np.float64)[:, None] for values in (self.mean, self.std))
        with np.errstate(over="ignore"):
            exact = np.broadcast_to((levels - mean) / std, (self.channels, LEVELS))
            dtype = ml_dtypes.bfloat16 if self.dtype == "bfloat16" else np.dtype(self.dtype)
            return exact.astype(dtype)

    def without_normalization(self) -> Preprocess:
        """Return the steps that end with 8-bit pixels (H, W, C) in RGB or grayscale."""
        color = "gray" if self.color == "gray" else "rgb"
        plain = replace(self, color=color, scale=1.0, mean=(0.0,), std=(1.0,))
        return replace(plain, layout="nhwc", dtype="uint8")

    def to_json(self) -> dict[str, Json]:
        """Return the JSON form with all members."""
        form = jsonable(self)
        assert isinstance(form, dict)
        return form

    def _check_numbers(self) -> None:
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) not in {1, self.channels}:
                raise OptionError(
                    f"preprocess: {name} has {len(values)} numbers, {self.color} images have "
                    f"{self.channels} channels"
                )
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))) or 0.0 in self.std:
            raise OptionError("preprocess: scale, mean and std must be finite, and std nonzero")
        plain = (self.scale, set(self.mean), set(self.std)) == (1.0, {0.0}, {1.0})
        if self.dtype == "uint8" and not plain:
            raise OptionError("preprocess: uint8 requires scale 1, mean 0 and std 1")
        if not np.isfinite(self.levels().astype(np.float64)).all():
            raise OptionError(f"preprocess: scale, mean and std exceed the range of {self.dtype}")


def _check_sides(name: str, sides: tuple[int, int]) -> None:
    if min(sides) < 1 or sides[0] * sides[1] > MAX_PIXELS:
        raise OptionError(
            f"preprocess: {name} is {list(sides)}; sides must be at least 1, with at most "
            f"{MAX_PIXELS} pixels in total"
        )


def preprocess_from_json(form: Mapping[str, object]) -> Preprocess:
    """Build the value from its JSON form.

    Short forms: `"resize": 256`, `"crop": 224`, and one number for `mean` or `std`.

    Raises:
        OptionError: an unknown member, or a value of the wrong type or out of range.
    """
    given = _known("preprocess", form, Preprocess)
    if (resize := given.pop("resize", None)) is not None:
        given["resize"] = _resize(resize)
    if (crop := given.pop("crop", None)) is not None:
        size = _size("crop", crop)
        given["crop"] = size if isinstance(size, tuple) else (size, size)
    if "scale" in given:
        given["scale"] = _number("scale", given["scale"])
    for name in ("mean", "std"):
        if name in given:
            given[name] = _numbers(name, given[name])
    _check_strings("", given, ("orientation", "color", "layout", "dtype"))
    return Preprocess(**given)


def _resize(value: object) -> Resize:
    if not isinstance(value, Mapping):
        return Resize(size=_size("resize", value))
    given = _known("preprocess: resize", value, Resize)
    if "size" not in given:
        raise OptionError("preprocess: resize requires size")
    given["size"] = _size("resize.size", given["size"])
    _check_strings("resize.", given, ("interpolation",))
    if not isinstance(given.get("antialias", True), bool):
        raise OptionError("preprocess: resize.antialias must be true or false")
    return Resize(**given)


def _known(where: str, form: Mapping[Any, object], kind: type[Any]) -> dict[str, Any]:
    names = [field.name for field in fields(kind)]
    unknown = sorted(str(name)[:50] for name in form if name not in names)
    if unknown:
        raise OptionError(f"{where}: unknown member {unknown[0]!r}; expected {', '.join(names)}")
    return {str(name): value for name, value in form.items()}


def _size(name: str, value: object) -> int | tuple[int, int]:
    if _is_integer(value):
        assert isinstance(value, int)
        return value
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_integer, value)):  # noqa: PLR2004
        return value[0], value[1]
    raise OptionError(f"preprocess: {name} must be a number of pixels or [height, width]")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise OptionError(f"preprocess: {name} must be a number, got {str(value)[:50]!r}")
    try:
        return float(value)
    except OverflowError as error:
        raise OptionError(f"preprocess: {name} is too large") from error


def _numbers(name: str, value: object) -> tuple[float, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) > _MAX_NUMBERS:
        raise OptionError(f"preprocess: {name} has {len(values)} numbers")
    return tuple(_number(name, one) for one in values)


def _check_strings(prefix: str, given: Mapping[str, object], names: tuple[str, ...]) -> None:
    for name in names:
        if not isinstance(given.get(name, ""), str):
            raise OptionError(f"preprocess: {prefix}{name} must be a string")


# Check whether preprocessed images fit a model, as far as known before reading them.

_AXES = 4


def check_preprocess(preprocess: Preprocess, inputs: Sequence[TensorInfo]) -> None:
    """Check that the arrays of a preprocessing fit a model's inputs.

    Raises:
        OptionError: the model has several inputs, or takes another type or shape.
    """
    if len(inputs) != 1:
        raise OptionError(
            f"preprocess: the model takes {[one.name for one in inputs]}; images fit "
            "models with one input"
        )
    (info,) = inputs
    header = ArrayHeader(dtype=preprocess.dtype, shape=_shape(preprocess, info))
    try:
        check_headers(inputs, {info.name: header})
    except BatchError as error:
        raise OptionError(
            f"preprocess: the images do not fit the model: {error.message}"
        ) from error


def _shape(preprocess: Preprocess, info: TensorInfo) -> tuple[int, ...]:
    """Return the shape of a batch of one; sizes that depend on the image are the model's."""
    sides: tuple[int, int] | None = preprocess.crop
    if (
        sides is None
        and preprocess.resize is not None
        and isinstance(preprocess.resize.size, tuple)
    ):
        sides = preprocess.resize.size
    channels_first = preprocess.layout == "nchw"
    if sides is None:
        places = (2, 3) if channels_first else (1, 2)
        known = info.shape if info.shape is not None and len(info.shape) == _AXES else ()
        expected = [known[place] if known else None for place in places]
        high, wide = (side if isinstance(side, int) else 1 for side in expected)
        sides = (high, wide)
    if channels_first:
        return (1, preprocess.channels, *sides)
    return (1, *sides, preprocess.channels)
