"""A guard on request bodies: no encodings, no slow senders, no large JSON."""

from __future__ import annotations

import re
from time import monotonic

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BodySlowError, MediaTypeError, TooLargeError
from service.middleware.open_bodies import OpenBodies
from service.settings import Settings
from service.web.problem_responses import refused

# JSON bodies are read whole into memory; the largest honest one is a list of layer patterns.
JSON_LIMIT_BYTES = 1 << 20
# Routes that read their body in blocks and have limits of their own.
STREAMED = re.compile(
    r"/v1/models|/v1/recalibrate|/v1/recalibrations/[^/]+/batches(/[^/]+)?"
    r"|/v2/models/[^/]+(/versions/[^/]+)?/infer"
)


class BodyGuard:
    """Wraps `receive`; a refusal is raised where the body is read."""

    def __init__(self, app: ASGIApp, *, settings: Settings, bodies: OpenBodies) -> None:
        self._app = app
        self._settings = settings
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a guarded body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        encoding = Headers(scope=scope).get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            # A few kilobytes can decode to terabytes; tensors hardly shrink anyway.
            refusal = MediaTypeError(f"bodies are taken unencoded, not as {encoding[:40]!r}")
            await refused(scope, refusal)(scope, receive, send)
            return
        limit = None if STREAMED.fullmatch(scope["path"]) else JSON_LIMIT_BYTES
        guarded = GuardedReceive(receive, self._settings, limit, self._bodies)
        await self._app(scope, guarded, send)


class GuardedReceive:
    """`receive` with a deadline for each part of the body and a least speed for the whole."""

    def __init__(
        self, receive: Receive, settings: Settings, limit: int | None, bodies: OpenBodies
    ) -> None:
        self._receive = receive
        self._bodies = bodies
        self._idle_seconds = settings.body_idle_seconds
        self._least_speed = settings.body_min_bytes_per_second
        self._limit = limit
        self._waited = 0.0
        self._seen = 0
        self._over = False

    async def __call__(self) -> Message:
        """Return the next part.

        Raises:
            BodySlowError: nothing came for too long, or too little on the whole.
            TooLargeError: more came than the route takes.
            ShuttingDownError: the server is going down and waits no longer.
        """
        if self._over:
            return await self._receive()
        began = monotonic()
        try:
            async with self._bodies.deadline(self._idle_seconds):
                message = await self._receive()
        except TimeoutError as error:
            raise BodySlowError(f"no part of the body came for {self._idle_seconds:g} s") from error
        # Only time spent waiting for the sender counts: our own disk must not time a client out.
        self._waited += monotonic() - began
        self._count(message)
        return message

    def _count(self, message: Message) -> None:
        self._over = not message.get("more_body", False)
        self._seen += len(message.get("body", b""))
        if self._limit is not None and self._seen > self._limit:
            raise TooLargeError(f"the body is larger than {self._limit} bytes", limit=self._limit)
        allowed = self._idle_seconds + self._seen / self._least_speed
        if not self._over and self._waited > allowed:
            raise BodySlowError(f"the body came with less than {self._least_speed} bytes/s")
