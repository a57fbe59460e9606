"""Bodies as they arrive, in blocks worth a thread, refused as soon as they are too large."""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect, Request

from service.errors import BodyIncompleteError, TooLargeError

# Hashing, searching and writing a block of this size takes about 2 ms, some twenty times the hop to
# a thread.
BLOCK_BYTES = 1 << 20


def announced_bytes(request: Request) -> int | None:
    """Return the bytes that a body is said to have; None where nobody has said so."""
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isdecimal() else None


async def blocks(request: Request, *, limit_bytes: int, what: str) -> AsyncIterator[bytearray]:
    """Yield the body in blocks of about a mebibyte; at least one, and only the last is short.

    Raises:
        TooLargeError: the body is, or says that it is, longer than `limit_bytes`.
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


def _too_large(what: str, limit_bytes: int) -> TooLargeError:
    return TooLargeError(f"the {what} is larger than {limit_bytes} bytes", limit=limit_bytes)
