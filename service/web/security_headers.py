"""Security headers of every response."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bn_ops.diagnostics.html import REPORT_CONTENT_SECURITY_POLICY

_NO_CONTENT = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# The report allows its own style sheet and script, by hash; the sandbox gives it a separate
# origin without access to the server, even if a layer name could inject something.
_REPORT = f"{REPORT_CONTENT_SECURITY_POLICY}; sandbox allow-scripts"

HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
)


class SecurityHeadersMiddleware:
    """Adds the headers; HTML gets the report's content security policy, all else the strictest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request."""

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_security_headers(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


def add_security_headers(headers: MutableHeaders) -> None:
    """Add those headers that are missing."""
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    page = headers.get("Content-Type", "").startswith("text/html")
    headers.setdefault("Content-Security-Policy", _REPORT if page else _NO_CONTENT)
    headers.setdefault("Cache-Control", "no-store")
