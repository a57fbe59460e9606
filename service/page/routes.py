"""Serve the page: its built files, held in memory. They hold no data, so they need no token."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from types import MappingProxyType

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.web.direct_route import DirectRoute
from service.web.file_response import matches

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

# Everything comes from this server. The style sheet of a report is applied by script, which needs
# no exception. Pictures: files that were chosen (`blob:`), and previews and icons (`data:`).
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_PAGE_HEADERS = MappingProxyType(
    {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Cache-Control": "no-cache",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    }
)
# The name of an asset contains the digest of its content.
_ASSET_HEADERS = MappingProxyType({"Cache-Control": "public, max-age=31536000, immutable"})


def routes() -> list[DirectRoute]:
    """Return the routes of the page, the API reference and their assets."""
    built = read_files()

    async def get_page(request: Request) -> Response:
        return await _send(request, built[INDEX], _PAGE_HEADERS)

    async def get_reference(request: Request) -> Response:
        return await _send(request, built[REFERENCE], _PAGE_HEADERS)

    async def get_asset(request: Request) -> Response:
        found = built.get(f"{ASSETS}/{request.path_params['name']}")
        if found is None:
            raise HTTPException(404)
        return await _send(request, found, _ASSET_HEADERS)

    return [
        DirectRoute("/", get_page, methods=["GET"]),
        DirectRoute("/docs", get_reference, methods=["GET"]),
        DirectRoute(f"/{ASSETS}/{{name}}", get_asset, methods=["GET"]),
    ]


async def _send(request: Request, file: BuiltFile, headers: Mapping[str, str]) -> Response:
    """Return a file, compressed where the client accepts that."""
    found = {**headers, "ETag": file.etag, "Vary": "Accept-Encoding"}
    if matches(request.headers.get("if-none-match"), file.etag):
        return Response(status_code=304, headers=found)
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(file.content, headers=found, media_type=file.media_type)
    content = await asyncio.to_thread(lambda: file.compressed)
    found["Content-Encoding"] = "gzip"
    return Response(content, headers=found, media_type=file.media_type)


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
