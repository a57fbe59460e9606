"""Limits for request bodies: no encodings, no slow senders, no large JSON."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodyTimeoutError, MediaTypeError, ShuttingDownError, TooLargeError
from service.settings import Settings
from service.web.problem_responses import refused

# JSON bodies are read into memory; the largest legitimate one is a list of layer patterns.
MAX_JSON_BYTES = 1 << 20
# Routes that read their body in blocks and have limits of their own.
STREAMED = re.compile(
    r"/v1/models(/[^/]+/preview)?|/v1/recalibrate"
    r"|/v1/recalibrations/[^/]+/((source-)?batches(/[^/]+)?|predictions)"
    r"|/v2/models/[^/]+(/versions/[^/]+)?/infer"
)


class OpenBodies:
    """The waits for request bodies of one server, so that a shutdown can end them.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._waiting: set[asyncio.Timeout] = set()
        self._closed = False

    def close(self) -> None:
        """Reject incomplete bodies: a response now is better than a broken connection later."""
        self._closed = True
        for deadline in self._waiting:
            deadline.reschedule(0.0)

    @asynccontextmanager
    async def deadline(self, seconds: float) -> AsyncIterator[None]:
        """Limit the time of a wait for the next part of a body.

        Raises:
            TimeoutError: the time has passed.
            ShuttingDownError: the server is shutting down.
        """
        if self._closed:
            raise _shutting_down()
        try:
            async with asyncio.timeout(seconds) as deadline:
                self._waiting.add(deadline)
                try:
                    yield
                finally:
                    self._waiting.discard(deadline)
        except TimeoutError:
            if self._closed:
                raise _shutting_down() from None
            raise


class RequestBodyLimitsMiddleware:
    """Wraps `receive`, so that a violation is raised where the body is read."""

    def __init__(self, app: ASGIApp, *, settings: Settings, bodies: OpenBodies) -> None:
        self._app = app
        self._settings = settings
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request with a limited body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        encoding = Headers(scope=scope).get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            # A few kilobytes can decode to terabytes, and tensors compress poorly.
            error = MediaTypeError(f"encoded bodies ({encoding[:40]!r}) are not supported")
            await refused(scope, error)(scope, receive, send)
            return
        limit = None if STREAMED.fullmatch(scope["path"]) else MAX_JSON_BYTES
        limited = _LimitedReceive(receive, self._settings, limit, self._bodies)
        await self._app(scope, limited, send)


class _LimitedReceive:
    """`receive` with a timeout for each part of the body and a minimum rate for all of it."""

    def __init__(
        self, receive: Receive, settings: Settings, limit: int | None, bodies: OpenBodies
    ) -> None:
        self._receive = receive
        self._bodies = bodies
        self._idle_seconds = settings.body_idle_seconds
        self._min_rate = settings.body_min_bytes_per_second
        self._limit = limit
        self._waited = 0.0
        self._seen = 0
        self._complete = False

    async def __call__(self) -> Message:
        """Return the next part.

        Raises:
            BodyTimeoutError: the next part took too long, or the average rate is too low.
            TooLargeError: the body exceeds the limit of the route.
            ShuttingDownError: the server is shutting down.
        """
        if self._complete:
            return await self._receive()
        began = monotonic()
        try:
            async with self._bodies.deadline(self._idle_seconds):
                message = await self._receive()
        except TimeoutError as error:
            raise BodyTimeoutError(
                f"no part of the body arrived for {self._idle_seconds:g} s"
            ) from error
        # Only waiting for the client counts: the server's disk must not cause a timeout.
        self._waited += monotonic() - began
        self._count(message)
        return message

    def _count(self, message: Message) -> None:
        self._complete = not message.get("more_body", False)
        self._seen += len(message.get("body", b""))
        if self._limit is not None and self._seen > self._limit:
            raise TooLargeError(f"the body is larger than {self._limit} bytes", limit=self._limit)
        allowed = self._idle_seconds + self._seen / self._min_rate
        if not self._complete and self._waited > allowed:
            raise BodyTimeoutError(f"the body is slower than {self._min_rate} bytes/s")


def _shutting_down() -> ShuttingDownError:
    return ShuttingDownError("the server is shutting down; the body is incomplete")
