"""An id, a log line and metrics for each request."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.telemetry.logs import ID_HEADER, choose_request_id, current_request_id
from service.telemetry.metrics import METHODS, OTHER, Metrics

_log = logging.getLogger(__name__)
UNROUTED = "(none)"
# No path of the API is longer; the rest would only fill the log.
MAX_LOGGED_PATH = 256


@dataclass(slots=True)
class _Outcome:
    """Status and problem code of a response; the defaults apply if none is sent."""

    status: int = 500
    problem: str | None = problems.INTERNAL


def _ids(scope: Scope) -> dict[str, str]:
    """Return the recalibration that a request is about."""
    found = scope.get("path_params", {}).get("recalibration")
    return {} if found is None else {"recalibration": found}


class RequestLogMiddleware:
    """Logs and counts every request; the outermost middleware of this package."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request and record its outcome."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = choose_request_id(Headers(scope=scope).get(ID_HEADER))
        # Never reset: each request is a task of its own, and uvicorn logs an unhandled exception
        # after this function has raised it.
        current_request_id.set(request_id)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        began = perf_counter()
        outcome = _Outcome()

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                outcome.status = message["status"]
                outcome.problem = state.get("problem")
                MutableHeaders(scope=message)[ID_HEADER] = request_id
            await send(message)

        try:
            with self._metrics.requests_open.track_inprogress():
                await self._app(scope, receive, note)
        finally:
            self._record(scope, outcome, perf_counter() - began)

    def _record(self, scope: Scope, outcome: _Outcome, seconds: float) -> None:
        # The route's template instead of the path: labels must not grow with the data.
        route = getattr(scope.get("route"), "path", UNROUTED)
        method = scope["method"] if scope["method"] in METHODS else OTHER
        status = str(outcome.status)
        self._metrics.requests.labels(method=method, route=route, status=status).inc()
        self._metrics.request_seconds.labels(method=method, route=route).observe(seconds)
        if outcome.problem is not None:
            self._metrics.problems.labels(code=outcome.problem).inc()
        caller = scope["state"].get("caller")
        _log.info(
            "%s %s %d",
            method,
            scope["path"][:MAX_LOGGED_PATH],
            outcome.status,
            extra={
                "action": "request",
                "route": route,
                **_ids(scope),
                "status": outcome.status,
                "seconds": round(seconds, 6),
                "code": outcome.problem,
                "caller": caller.name if caller is not None else None,
            },
        )
