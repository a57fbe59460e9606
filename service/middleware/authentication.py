"""Who may: a known token, or this machine alone.

A token makes its holder the request's caller. Without tokens the server listens on loopback only,
the caller sees everything, and a browser is the one stranger who can still
reach it: through a foreign name that points to 127.0.0.1, or from a page of another origin. Both
are refused.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.callers import EVERYTHING, Caller
from service.errors import HostError, ServiceError, UnauthenticatedError
from service.middleware.keyring import Keyring, holder
from service.storage.ledger.protocol import Ledger
from service.web.problem_responses import refused

# Probes come from orchestrators that hold no token; neither answer tells anything of the data.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


class Access:
    """Refuses requests before any other code sees them, and says who sends the others."""

    def __init__(self, app: ASGIApp, *, keyring: Keyring, demanded: bool) -> None:
        """Take the tokens, and whether one is demanded even when there is none."""
        self._app = app
        self._keyring = keyring
        self._demanded = demanded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                ledger = scope["app"].state.context.ledger
                caller = await self._admit(ledger, Headers(scope=scope))
            except ServiceError as refusal:
                await refused(scope, refusal)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    async def _admit(self, ledger: Ledger, headers: Headers) -> Caller:
        keys = await self._keyring.keys(ledger)
        if keys or self._demanded or self._keyring.used:
            caller = holder(headers.get("authorization"), keys)
            if caller is None:
                raise UnauthenticatedError("send a known token as `Authorization: Bearer <token>`")
            return caller
        _refuse_foreign_pages(headers)
        return EVERYTHING


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address; of names only localhost is trusted."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _refuse_foreign_pages(headers: Headers) -> None:
    origin = headers.get("origin")
    # Of two, a proxy may have looked at the other one.
    for host in [_name(f"//{one}") for one in headers.getlist("host") or [""]]:
        if host not in LOOPBACK_NAMES:
            raise HostError(f"a server without tokens answers to localhost only, not to {host!r}")
    if origin is not None and _name(origin) not in LOOPBACK_NAMES:
        raise HostError("a server without tokens takes nothing from pages of other origins")


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
