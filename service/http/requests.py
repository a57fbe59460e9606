"""Each request has an id, a line in the log and a place in the metrics."""

from __future__ import annotations

import logging
import uuid
from time import perf_counter

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)
UNROUTED = "(none)"


class RequestLog:
    """Outermost of our layers: sees every request and its answer."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and write down how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = str(uuid.uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        began = perf_counter()
        status = 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            self._write(scope, request_id, status, perf_counter() - began)

    def _write(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        # The route's template, not the path: labels must not grow with the data.
        route = getattr(scope.get("route"), "path", UNROUTED)
        self._metrics.requests.add(1, method=scope["method"], route=route, status=str(status))
        self._metrics.request_seconds.observe(seconds, route=route)
        _log.info(
            "%s %s %d",
            scope["method"],
            scope["path"],
            status,
            extra={
                "action": "request",
                "request_id": request_id,
                "route": route,
                "status": status,
                "seconds": round(seconds, 6),
            },
        )
