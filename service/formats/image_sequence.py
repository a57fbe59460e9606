"""A sequence of encoded images, each after its length.

Source: Open Inference Protocol, binary tensor data extension, "BYTES": the length is an unsigned
little-endian integer of four bytes. An inference request with images is stored in this form,
unchanged. The API process checks only the lengths, while the bytes arrive; a worker decodes the
images before the batch is acknowledged.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO

from service.errors import BatchMalformedError
from service.formats.members import Member

PREFIX_BYTES = 4
"""Bytes of the length before each image."""


class ImageSequenceScan:
    """Checks the lengths in pieces of any size; the same bytes give the same result."""

    def __init__(self, name: str, images: int, length: int) -> None:
        """Start a sequence.

        Args:
            name: the input's name, for messages.
            images: the number of images that the request announces.
            length: bytes of the whole sequence, as announced.
        """
        self._name = name
        self._images = images
        self._left = length  # bytes that have not been fed
        self._index = 0  # of the current or next image
        self._prefix = bytearray()
        self._missing = 0  # bytes of the current image

    def feed(self, data: bytes | bytearray) -> None:
        """Check the next bytes.

        Raises:
            BatchMalformedError: a length is impossible, or there are more images than announced.
        """
        used = 0
        while used < len(data):
            if self._missing:
                taken = min(self._missing, len(data) - used)
                self._missing -= taken
                self._index += not self._missing
            else:
                taken = min(PREFIX_BYTES - len(self._prefix), len(data) - used)
                self._prefix += data[used : used + taken]
            used += taken
            self._left -= taken
            if len(self._prefix) == PREFIX_BYTES:
                self._start_image(int.from_bytes(self._prefix, "little"))
                self._prefix.clear()

    def finish(self) -> None:
        """Check that the sequence is complete.

        Raises:
            BatchMalformedError: there are fewer images than announced, or the last is incomplete.
        """
        if self._prefix or self._missing:
            raise self._malformed("is incomplete")
        if self._index != self._images:
            raise self._error(f"holds {self._index} images, its shape says {self._images}")

    def _start_image(self, size: int) -> None:
        if self._index == self._images:
            raise self._error(f"continues after the {self._images} images of its shape")
        if not size:
            raise self._malformed("is empty")
        if size > self._left:
            raise self._malformed(f"has a length of {size} bytes, {self._left} are left")
        self._missing = size

    def _malformed(self, fault: str) -> BatchMalformedError:
        text = f"is malformed: the image at index {self._index} {fault}"
        return BatchMalformedError(
            f"input {self._name!r} {text}", input=self._name, image=self._index
        )

    def _error(self, fault: str) -> BatchMalformedError:
        return BatchMalformedError(f"input {self._name!r} {fault}", input=self._name)


def read_image_sequence(file: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Yield a name for messages and the encoded bytes of each image.

    Args:
        file: seekable, at its start.

    Raises:
        BatchMalformedError: a length goes beyond the end of the file.
    """
    left = file.seek(0, os.SEEK_END)
    file.seek(0)
    index = 0
    while left:
        prefix = file.read(PREFIX_BYTES)
        size = int.from_bytes(prefix, "little")
        left -= PREFIX_BYTES + size
        if left < 0:  # checked before `read` allocates the memory
            raise BatchMalformedError(f"the image at index {index} is incomplete", image=index)
        yield str(index), file.read(size)
        index += 1


# The images in a tar or zip archive.
#
# All other members are ignored: WebDataset shards, for example, also hold labels and captions.

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def is_image(name: str) -> bool:
    """Return whether a member is an image according to its name; hidden files are not."""
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in SUFFIXES and not hidden


def archive_images(members: Iterable[Member]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each image, in the order of the archive.

    Raises:
        BatchMalformedError: the archive holds no image.
    """
    empty = True
    for member in members:
        if is_image(member.name):
            empty = False
            yield member.name, member.read()
    if empty:
        raise BatchMalformedError(
            f"the archive holds no image ({', '.join(sorted(SUFFIXES))}); "
            "send arrays as application/x-npz"
        )
