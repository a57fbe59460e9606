"""The images in a tar or zip archive.

All other members are ignored: WebDataset shards, for example, also hold labels and captions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from service.errors import BatchMalformedError
from service.formats.members import Member

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


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
