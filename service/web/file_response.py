"""A stored file as a response: entity tag, digest, conditional requests, single ranges."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from service.errors import NotFoundError, StorageFailedError
from service.middleware.head import is_head
from service.storage.os_errors import translated
from service.web import content_digest as digests

CHUNK_BYTES = 1 << 20
# One range, as every download manager sends it; anything else is answered whole, as the RFC allows.
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def send(
    request: Request, path: Path, *, sha256: str, media_type: str, download: str | None
) -> Response:
    """Answer with a file.

    Args:
        request: its conditional and range headers are honoured.
        path: the file; its content never changes.
        sha256: its digest in hexadecimal, which is also its entity tag.
        media_type: what it is.
        download: a name under which a browser should save it, or None to show it.

    Raises:
        HTTPException: 412, it is not the one that If-Match names; 416, no byte is in the range.
        NotFoundError: it has just been deleted.
        StorageFailedError: it cannot be opened now.
    """
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache"}
    wanted = request.headers.get("if-match")
    if wanted is not None and not _matches(wanted, etag):
        raise HTTPException(412, "the file is another one", {"ETag": etag})
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    # Opened before anything is answered: a fault is still a problem document then.
    file, size = await asyncio.to_thread(_open, path)
    if download is not None:
        headers["Content-Disposition"] = f'attachment; filename="{download}"'
    try:
        part = _range(request, etag, size)
    except HTTPException:
        file.close()
        raise
    if part is None:
        headers["Content-Digest"] = digests.write(sha256)
        part, status = range(size), 200
    else:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
        status = 206
    headers["Content-Length"] = str(len(part))
    if is_head(request):
        file.close()
        return Response(status_code=status, headers=headers, media_type=media_type)
    body = _read(file, part)
    return StreamingResponse(body, status_code=status, headers=headers, media_type=media_type)


def _matches(condition: str | None, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in (condition or "").split(",")]
    return etag in tags or "*" in tags


def _range(request: Request, etag: str, size: int) -> range | None:
    match = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    if request.headers.get("if-range", etag) != etag:
        return None
    first, last = match.groups()
    if first == "":
        part = range(max(0, size - int(last)), size)
    else:
        part = range(int(first), min(size, int(last) + 1) if last else size)
    if not part:
        raise HTTPException(416, "no byte in this range", {"Content-Range": f"bytes */{size}"})
    return part


def _open(path: Path) -> tuple[BinaryIO, int]:
    try:
        with translated():
            file = path.open("rb")
    except StorageFailedError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise NotFoundError("the file has just been deleted") from error
        raise
    return file, os.fstat(file.fileno()).st_size


async def _read(file: BinaryIO, part: range) -> AsyncIterator[bytes]:
    try:
        await asyncio.to_thread(file.seek, part.start)
        left = len(part)
        while left:
            chunk = await asyncio.to_thread(file.read, min(left, CHUNK_BYTES))
            if not chunk:
                return
            left -= len(chunk)
            yield chunk
    finally:
        file.close()
