"""A limit for concurrent requests: an immediate error instead of a late response."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import OverloadedError
from service.middleware.authentication import HEALTH_PATHS
from service.web.problem_responses import refused


class ConcurrencyLimitMiddleware:
    """Rejects requests beyond the limit; probes are always served."""

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request, or reject it."""
        if scope["type"] != "http" or scope["path"] in HEALTH_PATHS:
            await self._app(scope, receive, send)
            return
        if self._active >= self._limit:
            error = OverloadedError(f"{self._limit} requests are in progress, which is the limit")
            await refused(scope, error)(scope, receive, send)
            return
        self._active += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._active -= 1
