"""A stored file as a response: entity tag, digest, conditional requests and ranges."""

from __future__ import annotations

import asyncio
import os
from http import HTTPStatus
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from service.errors import NotFoundError, StorageFailedError
from service.storage.capacity import translated
from service.web import content_digest as digests
from service.web.head import is_head


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
    etag = f'"{sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    wanted = request.headers.get("if-match")
    if wanted is not None and not matches(wanted, etag):
        raise HTTPException(412, "the file has changed", {"ETag": etag})
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers | {"Accept-Ranges": "bytes"})
    # Opened before the response starts, while an error can still become a problem document.
    found = await asyncio.to_thread(_stat, path)
    headers["Content-Digest"] = digests.write(sha256)
    if download is not None:
        headers["Content-Disposition"] = f'attachment; filename="{download}"'
    return _StoredFile(
        path, headers=headers, media_type=media_type, stat_result=found, head=is_head(request)
    )


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
