"""A stored file as a response: entity tag, digest, conditional requests and ranges."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from service.errors import NotFoundError, StorageFailedError
from service.storage.capacity import translated
from service.web import content_digest as digests
from service.web.head import is_head

# More digits are more bytes than any file has.
_RANGE = re.compile(r"bytes=(?P<first>\d{0,18})-(?P<last>\d{0,18})")


async def send(
    request: Request, path: Path, *, sha256: str, media_type: str, download: str | None
) -> Response:
    """Return a file as a response.

    Args:
        request: its conditional headers are evaluated here; Range and If-Range by the response.
        path: the file; its content never changes.
        sha256: the file's digest in hexadecimal, which is also its entity tag.
        media_type: value of Content-Type.
        download: name under which a browser saves the file, or None to display it.

    Raises:
        HTTPException: 412, If-Match names another entity tag.
        NotFoundError: the file has just been deleted.
        StorageFailedError: the file cannot be opened.
    """
    headers = {"ETag": f'"{sha256}"', "Cache-Control": "private, no-cache"}
    if (answer := _check_conditions(request, headers)) is not None:
        return answer
    # Opened before the response starts, while an error can still become a problem document.
    found = await asyncio.to_thread(_stat, path)
    headers |= _content_headers(sha256, download)
    return _StoredFile(
        path, headers=headers, media_type=media_type, stat_result=found, head=is_head(request)
    )


async def send_stream(
    request: Request,
    stream: Callable[[int, int], AsyncIterator[bytes]],
    *,
    size: int,
    sha256: str,
    media_type: str,
    download: str | None,
) -> Response:
    """Return a file that is kept on another machine as a response.

    Differs from `send` in one respect: a request for several ranges gets the whole file, which RFC
    9110 allows.

    Args:
        request: its conditional headers and its range are evaluated here.
        stream: yields the bytes from a start to a stop.
        size: size of the file in bytes.
        sha256: as in `send`.
        media_type: as in `send`.
        download: as in `send`.

    Raises:
        HTTPException: 412, see `send`; 416, the range is outside the file.
        NotFoundError, CapacityError: the first bytes cannot be read.
    """
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Accept-Ranges": "bytes"}
    if (answer := _check_conditions(request, headers)) is not None:
        return answer
    headers |= _content_headers(sha256, download)
    status, start, stop = 200, 0, size
    found = _read_range(request, etag, size)
    if found is not None:
        status, (start, stop) = 206, found
        del headers["Content-Digest"]
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    if is_head(request):
        return Response(status_code=status, headers=headers, media_type=media_type)
    blocks = stream(start, stop)
    # Read before the response starts, while an error can still become a problem document.
    first = await anext(blocks, b"")
    return StreamingResponse(
        _chained(first, blocks), status_code=status, headers=headers, media_type=media_type
    )


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for block in rest:
        yield block


def _check_conditions(request: Request, headers: Mapping[str, str]) -> Response | None:
    """Return the response for a client that has the file already.

    Raises:
        HTTPException: 412, If-Match names another entity tag.
    """
    etag = headers["ETag"]
    wanted = request.headers.get("if-match")
    if wanted is not None and not matches(wanted, etag):
        raise HTTPException(412, "the file has changed", {"ETag": etag})
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers={**headers, "Accept-Ranges": "bytes"})
    return None


def _content_headers(sha256: str, download: str | None) -> dict[str, str]:
    headers = {"Content-Digest": digests.write(sha256)}
    if download is not None:
        headers["Content-Disposition"] = f'attachment; filename="{download}"'
    return headers


def _read_range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """Return the start and stop of the only range that a request asks for; None for the whole file.

    Raises:
        HTTPException: 416, the range is outside the file.
    """
    if request.headers.get("if-range", etag) != etag:
        return None
    found = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if found is None or found["first"] == found["last"] == "":
        return None
    if found["first"] == "":
        start, stop = max(size - int(found["last"]), 0), size
    else:
        start = int(found["first"])
        stop = min(int(found["last"] or size) + 1, size)
        if found["last"] and int(found["last"]) < start:
            return None  # malformed, and ignored like any other
    if start >= size:
        content_range = {"Content-Range": f"bytes */{size}"}
        raise HTTPException(416, "the range is outside the file", content_range)
    return start, stop


class _MalformedRangeError(Exception):
    """The Range header cannot be parsed."""


class _StoredFile(FileResponse):
    """Starlette's file response with the errors of this API."""

    chunk_size = 1 << 20

    def __init__(
        self,
        path: Path,
        *,
        headers: dict[str, str],
        media_type: str,
        stat_result: os.stat_result,
        head: bool,
    ) -> None:
        super().__init__(path, headers=headers, media_type=media_type, stat_result=stat_result)
        self._head = head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or the ranges that the request asks for.

        Raises:
            HTTPException: 416, the range is outside the file.
        """

        async def checked(message: Message) -> None:
            if message["type"] == "http.response.start":
                _check_start(message)
            await send(message)

        if self._head:  # the routes see HEAD as GET
            scope = {**scope, "method": "HEAD"}
        try:
            await super().__call__(scope, receive, checked)
        except _MalformedRangeError:  # RFC 9110: a malformed Range header is ignored
            headers = [one for one in scope["headers"] if one[0] != b"range"]
            await super().__call__({**scope, "headers": headers}, receive, checked)


def _check_start(message: Message) -> None:
    """Raise what the base class would answer in plain text; drop the whole file's digest of a part.

    Raises:
        HTTPException: the range is outside the file.
        _MalformedRangeError: the Range header cannot be parsed.
    """
    headers = MutableHeaders(scope=message)
    if message["status"] == HTTPStatus.BAD_REQUEST:
        raise _MalformedRangeError
    if message["status"] == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        content_range = {"Content-Range": headers["Content-Range"]}
        raise HTTPException(message["status"], "the range is outside the file", content_range)
    if message["status"] == HTTPStatus.PARTIAL_CONTENT:
        del headers["Content-Digest"]


def matches(condition: str | None, etag: str) -> bool:
    """Return whether a header names an entity tag; whether tags are weak makes no difference."""
    tags = [tag.strip().removeprefix("W/") for tag in (condition or "").split(",")]
    return etag.removeprefix("W/") in tags or "*" in tags


def _stat(path: Path) -> os.stat_result:
    """Return a file's status, after opening it for reading."""
    try:
        with translated(), path.open("rb") as file:
            return os.fstat(file.fileno())
    except StorageFailedError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise NotFoundError("the file has just been deleted") from error
        raise
