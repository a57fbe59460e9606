"""A batch of images: encoded files that nobody decodes before the worker does."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bnrecal_client.errors import BatchError

__all__ = ["MEDIA_TYPE", "SUFFIXES", "Images"]

MEDIA_TYPE = "application/x-tar"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
# How each kind begins, for images without a name.
_MAGIC = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG", ".png"), (b"RIFF", ".webp"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """One batch of encoded JPEG, PNG or WebP images, for a recalibration with `preprocess`.

    Attributes:
        items: a name for messages and the bytes of each image, in order.
    """

    items: tuple[tuple[str, bytes], ...]

    @staticmethod
    def of(images: Iterable[bytes | str | os.PathLike[str]]) -> Images:
        """Make a batch of encoded images, or of paths of files with them.

        Raises:
            BatchError: a file cannot be read.
        """
        return Images(items=tuple(_item(place, image) for place, image in enumerate(images)))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.items)

    def packed(self) -> bytes:
        """Write them as a tar archive; the same images give the same bytes."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for place, (name, content) in enumerate(self.items):
                entry = tarfile.TarInfo(_member(place, name))
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()


def _item(place: int, image: bytes | str | os.PathLike[str]) -> tuple[str, bytes]:
    if isinstance(image, bytes):
        suffix = next((end for magic, end in _MAGIC if image.startswith(magic)), ".jpg")
        return f"image{suffix}", image
    try:
        return os.fspath(image), Path(image).read_bytes()
    except OSError as error:
        raise BatchError(
            f"image {place}: {image} cannot be read: {error.strerror or error}",
            code="image-invalid",
        ) from error


def _member(place: int, name: str) -> str:
    """Name a member so that it is the only one of its name, and known again by a person."""
    path = Path(name)
    stem = "".join(sign if sign.isprintable() and sign != "\\" else "_" for sign in path.stem)
    suffix = path.suffix if path.suffix.lower() in SUFFIXES else ".jpg"
    return f"{place:06d}-{stem[:100]}{suffix}"
