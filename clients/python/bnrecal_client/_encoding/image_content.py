"""The content of image files: whether Pillow can decode it.

The limits are those of the worker that decodes the images; docs/images.md lists them.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

from bnrecal_client.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["image_fault"]

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
_ANIMATED = frozenset({"GIF", "PNG", "TIFF", "WEBP"})
_MAX_PIXELS = 1 << 26
# Pixels of more than 8 bits would be truncated silently.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


def image_fault(content: bytes) -> str | None:
    """Return why an encoded image cannot be decoded; None if it can.

    Raises:
        OptionError: Pillow is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - optional
    except ImportError as error:
        raise OptionError("checking images requires Pillow: pip install pillow") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=list(_FORMATS))
            fault = _fault(image)
            if fault is None:
                image.load()
    except UnidentifiedImageError:
        return f"not a complete {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]} image"
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - decoders raise many types
        return f"{type(error).__name__}: {str(error)[:100]}"
    return fault


def _fault(image: Image) -> str | None:
    if image.width * image.height > _MAX_PIXELS:
        return f"{image.width} × {image.height} pixels, more than {_MAX_PIXELS}"
    if getattr(image, "is_animated", False) and image.format in _ANIMATED:
        return "more than one frame"
    if image.mode not in _MODES:
        return f"pixel mode {image.mode}, not 8 bits per channel"
    return None
