"""A bound on the requests under way: beyond it, an answer at once instead of one too late."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import CrowdedError
from service.middleware.authentication import OPEN_PATHS
from service.web.problem_responses import refused


class Crowd:
    """Refuses requests while too many others are under way; probes are always answered."""

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app = app
        self._most = most
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._most:
            refusal = CrowdedError(f"{self._most} requests are under way, which is the limit")
            await refused(scope, refusal)(scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1
