"""Serve the page; the files hold no data, so these routes need no token."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.page.files import ASSETS, INDEX, REFERENCE, BuiltFile, read_files
from service.web.direct_route import DirectRoute
from service.web.file_response import matches

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
