"""HEAD for every route: GET without the body of the response."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MARK = "head"


class HeadMiddleware:
    """Turns HEAD into GET for the routes and drops the body of their response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope.setdefault("state", {})[_MARK] = True
        # A copy: the request log still needs the original method.
        inner = {**scope, "method": "GET"}
        try:
            await self._app(inner, receive, without_body)
        finally:
            if "route" in inner:
                scope["route"] = inner["route"]


def is_head(request: Request) -> bool:
    """Return whether the body of the response is dropped, so that it need not be produced."""
    return bool(request.scope.get("state", {}).get(_MARK, False))
