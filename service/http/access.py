"""Who may: a known token, or this machine alone.

Without tokens the server listens on loopback only, and a browser is the one stranger who can still
reach it: through a foreign name that points to 127.0.0.1, or from a page of another origin. Both
are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service import problems
from service.errors import HostError, RequestError, UnauthenticatedError
from service.http.errors import instance_of, respond
from service.http.tokens import known

# Probes come from orchestrators that hold no token; neither answer tells anything of the data.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


class Access:
    """Refuses requests before any other code sees them."""

    def __init__(self, app: ASGIApp, *, tokens: Sequence[bytes]) -> None:
        self._app = app
        self._tokens = tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            refusal = self._refusal(Headers(scope=scope))
            if refusal is not None:
                document = problems.from_error(refusal, instance=instance_of(scope))
                await respond(document)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _refusal(self, headers: Headers) -> RequestError | None:
        if self._tokens:
            if known(headers.get("authorization"), self._tokens):
                return None
            return UnauthenticatedError("send a known token as `Authorization: Bearer <token>`")
        host = _name(f"//{headers.get('host', '')}")
        origin = headers.get("origin")
        if host not in LOOPBACK_NAMES:
            return HostError(f"a server without tokens answers to localhost only, not to {host!r}")
        if origin is not None and _name(origin) not in LOOPBACK_NAMES:
            return HostError("a server without tokens takes nothing from pages of other origins")
        return None


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
