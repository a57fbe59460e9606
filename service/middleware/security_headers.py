"""Headers that every response carries."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bn_ops.diagnostics.html import REPORT_CONTENT_SECURITY_POLICY

_NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# The report allows its one style sheet, by hash, and no script; `sandbox` takes away whatever
# a layer's name could smuggle in past the escaping.
_PAGE = f"{REPORT_CONTENT_SECURITY_POLICY}; sandbox"

STRICT: Mapping[str, str] = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
)


class StrictHeaders:
    """Adds them; a page gets the policy for pages, everything else one that allows nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                complete(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, add if scope["type"] == "http" else send)


def complete(headers: MutableHeaders) -> None:
    """Add what is missing."""
    for name, value in STRICT.items():
        headers.setdefault(name, value)
    page = headers.get("Content-Type", "").startswith("text/html")
    headers.setdefault("Content-Security-Policy", _PAGE if page else _NOTHING)
    headers.setdefault("Cache-Control", "no-store")
