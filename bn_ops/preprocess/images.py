"""Decode and transform images to batches of arrays; invalid files raise `ImageError`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.errors import ImageError, OptionError
from bn_ops.preprocess.value import MAX_PIXELS, Preprocess, Resize

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "FORMATS",
    "crop_center",
    "image_arrays",
    "image_batches",
    "normalized",
    "require_pillow",
    "resize",
    "resized_size",
    "to_array",
]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
# Formats that may hold several images, with what Pillow calls frames of them; MPO files, which
# cameras write as JPEG, hold previews after the photograph.
_FRAMES = MappingProxyType(
    {"PNG": "is animated", "WEBP": "is animated", "GIF": "is animated", "TIFF": "has several pages"}
)
# Pixels of more than 8 bits would be truncated silently.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
# Maximum size of one array of samples; an archive with more samples gives several arrays.
CHUNK_BYTES = 32 << 20


def require_pillow() -> None:
    """Fail early instead of at the first image, without loading anything.

    Raises:
        OptionError: Pillow is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise OptionError('reading images requires Pillow: pip install "bnrecal[images]"')


def image_batches(
    images: Iterable[bytes | str | os.PathLike[str]],
    preprocess: Preprocess,
    *,
    batch_size: int = 32,
) -> Iterator[NDArray[Any]]:
    """Yield batches of images, for `recalibrate` and `adapt`; one batch in memory at a time.

    Args:
        images: encoded images, or paths of files with them.
        preprocess: steps applied to each.
        batch_size: samples per batch; a batch is smaller at the end, where the next image has
            another size, and where more would take too much memory.

    Raises:
        ImageError: an image cannot be used; the error names it.
        OptionError: Pillow is not installed.
    """
    waiting: list[tuple[str, bytes]] = []
    number = 0
    for number, image in enumerate(images):
        if isinstance(image, bytes):
            waiting.append((f"image {number}", image))
        else:
            waiting.append((os.fspath(image), _read(Path(image), number // batch_size)))
        if len(waiting) == batch_size:
            yield from image_arrays(waiting, preprocess, batch=number // batch_size)
            waiting.clear()
    yield from image_arrays(waiting, preprocess, batch=number // batch_size)


def image_arrays(
    images: Iterable[tuple[str, bytes]],
    preprocess: Preprocess,
    *,
    batch: int | None = None,
    formats: Sequence[str] = FORMATS,
) -> Iterator[NDArray[Any]]:
    """Yield the images of one batch as arrays of shape (N, …), in their order.

    A batch is split where the size changes and where an array would exceed `CHUNK_BYTES`, so that
    an archive of any length takes little memory.

    Args:
        images: pairs of a name, for messages, and the encoded bytes.
        preprocess: steps applied to each.
        batch: index of the batch, for messages.
        formats: the accepted subset of `FORMATS`.

    Raises:
        ImageError: an image cannot be used; the error names it.
        OptionError: Pillow is not installed.
    """
    require_pillow()
    levels = preprocess.levels()
    waiting: list[NDArray[Any]] = []
    for name, content in images:
        with _translated(name, batch):
            sample = to_array(_decoded(content, preprocess, formats), preprocess, levels)
        full = len(waiting) * sample.nbytes + sample.nbytes > CHUNK_BYTES
        if waiting and (full or waiting[0].shape != sample.shape):
            yield np.stack(waiting)
            waiting.clear()
        waiting.append(sample)
    if waiting:
        yield np.stack(waiting)


def _read(path: Path, batch: int) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        text = f"the image {path} cannot be read: {error.strerror or error}"
        raise ImageError(text, batch=batch, image=str(path)) from error


def _decoded(content: bytes, how: Preprocess, formats: Sequence[str]) -> Image:
    """Decode an image to RGB or grayscale; its size is checked before its pixels are decoded."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - optional

    with Image.open(io.BytesIO(content), formats=list(formats)) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(
                f"has {image.width} × {image.height} pixels, more than {MAX_PIXELS} pixels in total"
            )
        several = _FRAMES.get(image.format or "")
        if several is not None and getattr(image, "is_animated", False):
            raise ImageError(f"{several}; send each as a separate image")
        if image.mode not in _MODES:
            raise ImageError(f"has pixel mode {image.mode}; convert it to 8 bits per channel")
        image.load()
        if how.orientation == "apply":
            ImageOps.exif_transpose(image, in_place=True)
        return image.convert("L" if how.color == "gray" else "RGB")


@contextlib.contextmanager
def _translated(name: str, batch: int | None) -> Iterator[None]:
    """Raise any failure as ImageError with the image's name; decoders raise many types."""
    where = f"the image {name!r}" if batch is None else f"batch {batch}, image {name!r}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from PIL import UnidentifiedImageError  # noqa: PLC0415
        from PIL.Image import DecompressionBombError, DecompressionBombWarning  # noqa: PLC0415

        warnings.simplefilter("error", DecompressionBombWarning)
        try:
            yield
        except ImageError as error:
            text = f"{where}: {error.message}"
            raise ImageError(text, batch=batch, image=name) from error
        except (DecompressionBombWarning, DecompressionBombError) as error:
            text = f"{where}: has more than {MAX_PIXELS} pixels in total"
            raise ImageError(text, batch=batch, image=name) from error
        except MemoryError:
            raise
        except Exception as error:
            kinds = ", ".join(FORMATS)
            # Pillow's own message for an unknown format contains a memory address.
            unknown = isinstance(error, UnidentifiedImageError)
            cause = "unknown format" if unknown else f"{type(error).__name__}: {str(error)[:100]}"
            raise ImageError(
                f"{where} cannot be decoded ({cause}); complete {kinds} images are accepted",
                batch=batch,
                image=name,
            ) from error


def resized_size(size: tuple[int, int], requested: int | tuple[int, int]) -> tuple[int, int]:
    """Return (width, height) after resizing.

    Source: torchvision.transforms.functional, `_compute_resized_output_size`: the longer side is
    rounded down.
    """
    if isinstance(requested, tuple):
        return requested[1], requested[0]
    width, height = size
    if width <= height:
        return requested, requested * height // width
    return requested * width // height, requested


def resize(image: Image, how: Resize) -> Image:
    """Resize an 8-bit image.

    Raises:
        ImageError: the result would have too many pixels.
    """
    from PIL.Image import Resampling, Transform  # noqa: PLC0415 - optional

    width, height = resized_size(image.size, how.size)
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"an image of {image.width} × {image.height} pixels would be resized to "
            f"{width} × {height}, more than {MAX_PIXELS} pixels"
        )
    method = Resampling[how.interpolation.upper()]
    if how.antialias or how.interpolation == "nearest":
        return image.resize((width, height), method)
    # Interpolates only between the nearest pixels, at the centers of the new ones.
    steps = (image.width / width, 0.0, 0.0, 0.0, image.height / height, 0.0)
    return image.transform((width, height), Transform.AFFINE, steps, method)


def crop_center(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the center crop of pixels of shape (H, W, C), padded with black if necessary.

    Source: torchvision.transforms.functional.center_crop, its rounding included.
    """
    missing = [max(0, new - old) for new, old in zip(size, pixels.shape, strict=False)]
    if any(missing):
        around = [(count // 2, count - count // 2) for count in missing]
        pixels = np.pad(pixels, [*around, (0, 0)])
    top, left = (round((old - new) / 2.0) for old, new in zip(pixels.shape, size, strict=False))
    return pixels[top : top + size[0], left : left + size[1]]


def to_array(image: Image, how: Preprocess, levels: NDArray[Any]) -> NDArray[Any]:
    """Convert a decoded image to one sample of shape (C, H, W) or (H, W, C).

    Args:
        image: of mode RGB, or L for grayscale.
        how: the steps.
        levels: `how.levels()`.
    """
    if how.resize is not None:
        image = resize(image, how.resize)
    pixels: NDArray[np.uint8] = np.asarray(image)
    if pixels.ndim == 2:  # noqa: PLR2004 - grayscale images have no channel axis
        pixels = pixels[:, :, None]
    if how.crop is not None:
        pixels = crop_center(pixels, how.crop)
    return normalized(pixels, how, levels)


def normalized(
    pixels: NDArray[np.uint8], how: Preprocess, levels: NDArray[Any] | None = None
) -> NDArray[Any]:
    """Return one sample of shape (C, H, W) or (H, W, C) for pixels that are resized and cropped.

    Args:
        pixels: shape (H, W, C), in RGB or grayscale.
        how: the steps; those before normalization are not applied.
        levels: `how.levels()`, where it is known.
    """
    if levels is None:
        levels = how.levels()
    if how.color == "bgr":
        pixels = pixels[:, :, ::-1]
    planes = np.stack([levels[c][pixels[:, :, c]] for c in range(how.channels)])
    return planes if how.layout == "nchw" else np.ascontiguousarray(planes.transpose(1, 2, 0))
