"""Image files as batches of arrays. Hostile files end in an `ImageError`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.errors import ImageError, OptionError
from bn_ops.preprocess.pixels import to_array
from bn_ops.preprocess.value import MOST_PIXELS, Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["FORMATS", "image_arrays", "image_batches", "require_pillow"]

FORMATS = ("JPEG", "PNG", "WEBP")
# Deeper pixels would be cut down to 8 bits without a word.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
# What one array of samples may take; an archive with more of them gives several arrays.
CHUNK_BYTES = 32 << 20


def require_pillow() -> None:
    """Refuse early what would fail at the first image; loads nothing.

    Raises:
        OptionError: Pillow is not installed.
    """
    if importlib.util.find_spec("PIL") is None:
        raise OptionError('images are read with Pillow: pip install "bnrecal[images]"')


def image_batches(
    images: Iterable[bytes | str | os.PathLike[str]],
    preprocess: Preprocess,
    *,
    batch_size: int = 32,
) -> Iterator[NDArray[Any]]:
    """Yield batches of images, for `recalibrate` and `adapt`; one batch in memory at a time.

    Args:
        images: encoded images, or paths of files with them.
        preprocess: what is done to each.
        batch_size: samples per batch; a batch is smaller at the end, where the next image has
            another size, and where more would take too much memory.

    Raises:
        ImageError: an image cannot be used; names it.
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

    One array is one part of the batch: a new one begins where the size changes and where
    `CHUNK_BYTES` are full, so that an archive of any length takes little memory.

    Args:
        images: a name for messages, and the encoded bytes.
        preprocess: what is done to each.
        batch: index of the batch, for messages.
        formats: which of `FORMATS` are taken.

    Raises:
        ImageError: an image cannot be used; names it.
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
    """Decode the whole image to RGB or grey; looks at its size before its pixels."""
    from PIL import Image, ImageOps  # noqa: PLC0415 - optional

    with Image.open(io.BytesIO(content), formats=list(formats)) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ImageError(
                f"has {image.width} × {image.height} pixels, more than {MOST_PIXELS} pixels in all"
            )
        if getattr(image, "is_animated", False) and image.format in {"PNG", "WEBP"}:
            raise ImageError("is animated; send its frames as images")
        if image.mode not in _MODES:
            raise ImageError(f"has pixels of the kind {image.mode}; convert it to 8 bits")
        image.load()
        if how.orientation == "apply":
            ImageOps.exif_transpose(image, in_place=True)
        return image.convert("L" if how.colour == "grey" else "RGB")


@contextlib.contextmanager
def _translated(name: str, batch: int | None) -> Iterator[None]:
    """Name the image in whatever goes wrong; Pillow's decoders raise anything on hostile bytes."""
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
            text = f"{where}: has more than {MOST_PIXELS} pixels in all"
            raise ImageError(text, batch=batch, image=name) from error
        except MemoryError:
            raise
        except Exception as error:
            kinds = ", ".join(FORMATS)
            # Pillow's own words for an unknown format are an address in memory.
            unknown = isinstance(error, UnidentifiedImageError)
            told = "unknown format" if unknown else f"{type(error).__name__}: {str(error)[:100]}"
            raise ImageError(
                f"{where} cannot be decoded ({told}); whole {kinds} images are taken",
                batch=batch,
                image=name,
            ) from error
