"""Authentication by bearer token; without tokens, loopback only.

A token identifies the caller of a request. A server without tokens listens on loopback only and
shows the caller everything. The one remote party that can still reach it is a browser, through a
foreign name that resolves to 127.0.0.1 or from a page of another origin; both are refused.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.context import EVERYTHING, Caller
from service.errors import HostError, ServiceError, UnauthenticatedError
from service.middleware.keyring import Keyring, holder
from service.storage.ledger.protocol import Ledger
from service.web.problem_responses import refused

# Orchestrators send their probes without a token; the responses reveal nothing about the data.
HEALTH_PATHS = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
# The page, which asks for the token, and the description of the API hold no data either.
PAGE_PATHS = frozenset({"/", "/docs", "/openapi.json"})
ASSETS = "/assets/"
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


class AuthenticationMiddleware:
    """Rejects requests without a valid token and stores the caller of all others in the scope."""

    def __init__(self, app: ASGIApp, *, keyring: Keyring, required: bool) -> None:
        """Set up the middleware.

        Args:
            app: the next ASGI app.
            keyring: the known tokens.
            required: whether a token is required even if none exists.
        """
        self._app = app
        self._keyring = keyring
        self._required = required

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Authenticate a request."""
        if scope["type"] == "http" and not _is_open(scope["path"]):
            try:
                ledger = scope["app"].state.context.ledger
                caller = await self._authenticate(ledger, Headers(scope=scope))
            except ServiceError as error:
                await refused(scope, error)(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    async def _authenticate(self, ledger: Ledger, headers: Headers) -> Caller:
        keys = await self._keyring.keys(ledger)
        if keys or self._required or self._keyring.used:
            caller = holder(headers.get("authorization"), keys)
            if caller is None:
                raise UnauthenticatedError(
                    "the server requires a valid token: send `Authorization: Bearer <token>`"
                )
            return caller
        _require_local_page(headers)
        return EVERYTHING


def _is_open(path: str) -> bool:
    """Return whether a path needs no token."""
    return path in HEALTH_PATHS or path in PAGE_PATHS or path.startswith(ASSETS)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address; of names, only localhost counts."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_local_page(headers: Headers) -> None:
    origin = headers.get("origin")
    # All Host headers are checked: a proxy may have used any of them.
    for host in [_host_name(f"//{one}") for one in headers.getlist("host") or [""]]:
        if host not in LOOPBACK_NAMES:
            raise HostError(
                f"a server without tokens accepts the host localhost only, got {host!r}"
            )
    if origin is not None and _host_name(origin) not in LOOPBACK_NAMES:
        raise HostError("a server without tokens accepts no requests from pages of other origins")


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
