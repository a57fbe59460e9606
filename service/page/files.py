"""The built files of the page, held in memory."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from types import MappingProxyType

INDEX = "index.html"
REFERENCE = "docs.html"
ASSETS = "assets"
_STATIC = "static"
_MEDIA_TYPES = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".svg": "image/svg+xml",
        ".txt": "text/plain; charset=utf-8",
    }
)
_GZIP_LEVEL = 9


@dataclass(frozen=True)
class BuiltFile:
    """One file.

    Attributes:
        content: its bytes.
        media_type: value of Content-Type.
    """

    content: bytes
    media_type: str

    @cached_property
    def compressed(self) -> bytes:
        """The content, compressed with gzip; the same bytes for each server."""
        return gzip.compress(self.content, _GZIP_LEVEL, mtime=0)

    @cached_property
    def etag(self) -> str:
        """The entity tag, including its quotes; weak, because it names two encodings."""
        return f'W/"{hashlib.sha256(self.content).hexdigest()[:32]}"'


def read_files() -> Mapping[str, BuiltFile]:
    """Return the built files by their path, such as `assets/page-1a2b3c.js`."""
    root = files(__package__).joinpath(_STATIC)
    return MappingProxyType(
        {name: BuiltFile(one.read_bytes(), _media_type(name)) for name, one in _walk(root)}
    )


def _walk(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    found: list[tuple[str, Traversable]] = []
    for one in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}{one.name}"
        if one.is_dir():
            found += _walk(one, f"{name}/")
        elif PurePosixPath(name).suffix in _MEDIA_TYPES:
            found.append((name, one))
    return found


def _media_type(name: str) -> str:
    return _MEDIA_TYPES[PurePosixPath(name).suffix]
