"""Request bodies in blocks, rejected as soon as they exceed their limit; and disconnects."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyIncompleteError, ServiceError, TooLargeError

# Hashing, checking and writing a block of this size takes about 2 ms, twenty times as long as the
# switch to a thread.
BLOCK_BYTES = 1 << 20


def announced_bytes(request: Request) -> int | None:
    """Return the body's Content-Length; None if it is missing or malformed."""
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isdecimal() else None


async def blocks(request: Request, *, limit_bytes: int, what: str) -> AsyncIterator[bytearray]:
    """Yield the body in blocks of about 1 MiB; at least one, and only the last may be shorter.

    Raises:
        TooLargeError: the body, or its Content-Length, exceeds `limit_bytes`.
        BodyIncompleteError: the connection ended before the body did.
    """
    if (announced_bytes(request) or 0) > limit_bytes:
        raise _too_large(what, limit_bytes)
    block = bytearray()
    seen = 0
    try:
        async for chunk in request.stream():
            seen += len(chunk)
            if seen > limit_bytes:
                raise _too_large(what, limit_bytes)
            block += chunk
            if len(block) >= BLOCK_BYTES:
                yield block
                block = bytearray()
    except ClientDisconnect as error:
        raise BodyIncompleteError("the connection ended before the body did") from error
    yield block


async def client_disconnected(request: Request) -> None:
    """Return when the client has closed the connection, or its body is in error."""
    with contextlib.suppress(ServiceError):
        while (await request.receive())["type"] != "http.disconnect":
            pass


def _too_large(what: str, limit_bytes: int) -> TooLargeError:
    return TooLargeError(f"the {what} is larger than {limit_bytes} bytes", limit=limit_bytes)
