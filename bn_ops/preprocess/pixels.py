"""The steps on one decoded image. All imports of Pillow are for types: its objects come in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.errors import ImageError
from bn_ops.preprocess.value import MOST_PIXELS, Preprocess, Resize

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["crop_centre", "resize", "resized_size", "to_array"]


def resized_size(size: tuple[int, int], wanted: int | tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) after resizing.

    Source: torchvision.transforms.functional, `_compute_resized_output_size`: the longer side is
    rounded down.
    """
    if isinstance(wanted, tuple):
        return wanted[1], wanted[0]
    width, height = size
    if width <= height:
        return wanted, wanted * height // width
    return wanted * width // height, wanted


def resize(image: Image, how: Resize) -> Image:
    """Resize an 8-bit image.

    Raises:
        ImageError: the result would have too many pixels.
    """
    from PIL.Image import Resampling, Transform  # noqa: PLC0415 - optional

    width, height = resized_size(image.size, how.size)
    if width * height > MOST_PIXELS:
        raise ImageError(
            f"an image of {image.width} × {image.height} pixels would be resized to "
            f"{width} × {height}, more than {MOST_PIXELS} pixels"
        )
    method = Resampling[how.interpolation.upper()]
    if how.antialias or how.interpolation == "nearest":
        return image.resize((width, height), method)
    # Samples between the nearest pixels alone, at the centres of the new ones.
    steps = (image.width / width, 0.0, 0.0, 0.0, image.height / height, 0.0)
    return image.transform((width, height), Transform.AFFINE, steps, method)


def crop_centre(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Cut the middle out of pixels of shape (H, W, C); pad with black where it is missing.

    Source: torchvision.transforms.functional.center_crop, its rounding included.
    """
    lacks = [max(0, wanted - has) for wanted, has in zip(size, pixels.shape, strict=False)]
    if any(lacks):
        around = [(lack // 2, lack - lack // 2) for lack in lacks]
        pixels = np.pad(pixels, [*around, (0, 0)])
    top, left = (
        round((has - wanted) / 2.0) for has, wanted in zip(pixels.shape, size, strict=False)
    )
    return pixels[top : top + size[0], left : left + size[1]]


def to_array(image: Image, how: Preprocess, levels: NDArray[Any]) -> NDArray[Any]:
    """Turn a decoded image into one sample of shape (C, H, W) or (H, W, C).

    Args:
        image: of mode RGB, or L for grey.
        how: what to do.
        levels: `how.levels()`.
    """
    if how.resize is not None:
        image = resize(image, how.resize)
    pixels: NDArray[np.uint8] = np.asarray(image)
    if pixels.ndim == 2:  # noqa: PLR2004 - grey images have no axis of channels
        pixels = pixels[:, :, None]
    if how.crop is not None:
        pixels = crop_centre(pixels, how.crop)
    if how.colour == "bgr":
        pixels = pixels[:, :, ::-1]
    planes = np.stack([levels[c][pixels[:, :, c]] for c in range(how.channels)])
    return planes if how.layout == "nchw" else np.ascontiguousarray(planes.transpose(1, 2, 0))
