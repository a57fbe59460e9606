"""HEAD as GET without a body, for every route that there is and will be."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MARK = "head"


class HeadAsGet:
    """Lets the routes see GET, and sends what they answer without its body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        scope.setdefault("state", {})[_MARK] = True
        # A copy: whoever wrote the request's line must still see that it was HEAD.
        inner = {**scope, "method": "GET"}
        try:
            await self._app(inner, receive, without_body)
        finally:
            if "route" in inner:
                scope["route"] = inner["route"]


def is_head(request: Request) -> bool:
    """Tell whether nobody will read the body, so that a long one need not be made."""
    return bool(request.scope.get("state", {}).get(_MARK, False))
