"""Which members of an archive are images.

All others are passed over, in WebDataset shards (labels, captions) as elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType

from service.errors import BatchMalformedError
from service.formats.members import Member

FORMATS: Mapping[str, str] = MappingProxyType({"jpeg": "JPEG", "png": "PNG", "webp": "WEBP"})
"""Batch formats that are one image each, and Pillow's names of them."""
IMAGE_FORMATS = frozenset({*FORMATS, "tar", "zip"})
"""Batch formats that hold images."""
UNTOLD_SUFFIX = ".image"
"""Of a member that is one of `FORMATS`, without saying which."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", UNTOLD_SUFFIX})


def is_image(name: str) -> bool:
    """Tell by its name whether a member is an image; what a file manager hides is none."""
    path = PurePosixPath(name)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in SUFFIXES and not hidden


def images(members: Iterable[Member]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the images, in the archive's order.

    Raises:
        BatchMalformedError: there is none.
    """
    none = True
    for member in members:
        if is_image(member.name):
            none = False
            yield member.name, member.read()
    if none:
        raise BatchMalformedError(
            f"the archive holds no image ({', '.join(sorted(SUFFIXES))}); "
            "arrays travel as application/x-npz"
        )
