"""Images as encoded files, which the worker decodes; and whether Pillow can decode one."""

from __future__ import annotations

import io
import os
import tarfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bnrecal_client.errors import BatchError, OptionError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MEDIA_TYPE", "SUFFIXES", "Images", "image_fault"]

MEDIA_TYPE = "application/x-tar"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# The first bytes of each format, for images without a name.
_MAGIC = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG", ".png"),
    (b"RIFF", ".webp"),
    (b"BM", ".bmp"),
    (b"GIF8", ".gif"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """One batch of encoded images, for a recalibration with `preprocess`.

    Attributes:
        items: name (for messages) and content of each image, in order.
    """

    items: tuple[tuple[str, bytes], ...]

    @staticmethod
    def of(images: Iterable[bytes | str | os.PathLike[str]]) -> Images:
        """Return a batch of encoded images or of image files.

        Raises:
            BatchError: a file cannot be read.
        """
        return Images(items=tuple(_item(position, image) for position, image in enumerate(images)))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.items)

    def packed(self) -> bytes:
        """Return the images as a tar archive; equal images give equal bytes."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for position, (name, content) in enumerate(self.items):
                entry = tarfile.TarInfo(_member(position, name, content))
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()


def _item(position: int, image: bytes | str | os.PathLike[str]) -> tuple[str, bytes]:
    if isinstance(image, bytes):
        return f"image{_suffix(image)}", image
    try:
        content = Path(image).read_bytes()
    except OSError as error:
        raise BatchError(
            f"image {position}: {image} cannot be read: {error.strerror or error}",
            code="image-invalid",
        ) from error
    return os.fspath(image), content


def _suffix(content: bytes) -> str:
    return next((suffix for magic, suffix in _MAGIC if content.startswith(magic)), ".jpg")


def _member(position: int, name: str, content: bytes) -> str:
    """Return a unique member name in which the original name is recognizable."""
    path = Path(name)
    stem = "".join(sign if sign.isprintable() and sign != "\\" else "_" for sign in path.stem)
    suffix = path.suffix if path.suffix.lower() in SUFFIXES else _suffix(content)
    return f"{position:06d}-{stem[:100]}{suffix}"


# The limits are those of the worker that decodes the images; docs/images.md lists them.
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
