"""The content of image files, by Pillow: whether it can be decoded, and conversion to PNG.

The limits are those of the worker that decodes the images; docs/images.md lists them.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from bnrecal_client.errors import BatchError, OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["CONVERTED_SUFFIXES", "as_png", "image_fault"]

CONVERTED_SUFFIXES = frozenset({".bmp", ".gif", ".tif", ".tiff"})
"""Images that are converted to PNG, without loss, because older servers do not decode them."""

_FORMATS = ("JPEG", "PNG", "WEBP")
_CONVERTED_FORMATS = ("BMP", "GIF", "TIFF")
_ANIMATED = frozenset({"GIF", "PNG", "TIFF", "WEBP"})
_MAX_PIXELS = 1 << 26
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})
# Pixels of more than 8 bits would be truncated silently.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


def image_fault(content: bytes) -> str | None:
    """Return why an encoded image cannot be decoded; None if it can.

    Raises:
        OptionError: Pillow is not installed.
    """
    try:
        _decoded(content, _FORMATS)
    except BatchError as error:
        return error.message
    return None


def as_png(name: str, content: bytes) -> bytes:
    """Return a BMP, GIF or TIFF image as PNG with the same pixels.

    Pillow rotates a TIFF image according to its orientation tag while it decodes it.

    Raises:
        BatchError: it cannot be decoded, is animated, or has more than 8 bits per channel.
        OptionError: Pillow is not installed.
    """
    try:
        image = _decoded(content, _CONVERTED_FORMATS)
    except BatchError as error:
        raise BatchError(f"the image {name}: {error.message}", code="image-invalid") from error
    buffer = io.BytesIO()
    # The worker converts other modes, such as CMYK, to RGB in the same way.
    plain = image if image.mode in _PNG_MODES else image.convert("RGB")
    plain.save(buffer, format="PNG")
    return buffer.getvalue()


def _decoded(content: bytes, formats: tuple[str, ...]) -> Image:
    """Return a decoded image; every failure of a decoder is a `BatchError`."""
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - optional
    except ImportError as error:
        raise OptionError(
            "checking and converting images needs Pillow: pip install pillow"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=list(formats))
            fault = _fault(image)
            if fault is None:
                image.load()
                return image
    except UnidentifiedImageError:
        fault = f"not a complete {', '.join(formats[:-1])} or {formats[-1]} image"
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise many types
        fault = f"{type(error).__name__}: {str(error)[:100]}"
    raise BatchError(fault, code="image-invalid")


def _fault(image: Image) -> str | None:
    if image.width * image.height > _MAX_PIXELS:
        return f"{image.width} × {image.height} pixels, more than {_MAX_PIXELS}"
    if getattr(image, "is_animated", False) and image.format in _ANIMATED:
        return "more than one frame"
    if image.mode not in _MODES:
        return f"pixel mode {image.mode}, not 8 bits per channel"
    return None
