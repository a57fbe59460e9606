"""Each request has an id, a line in the log and a place in the metrics."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from time import perf_counter

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import problems
from service.telemetry import request_ids
from service.telemetry.metrics import Metrics

_log = logging.getLogger(__name__)
UNROUTED = "(none)"
# A path names nothing longer; the rest would only fill the log.
LOGGED_PATH = 256
# Whatever else a stranger calls a method would be a label of its own.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
OTHER = "(other)"


@dataclass(slots=True)
class _Answer:
    """What became of a request; nothing sent is what the framework answers with 500."""

    status: int = 500
    problem: str | None = problems.INTERNAL


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
        request_id = request_ids.choose(Headers(scope=scope).get(request_ids.ID_HEADER))
        # Never taken back: each request is a task of its own, and the server logs a fault of ours
        # after we have passed it on.
        request_ids.current.set(request_id)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        began = perf_counter()
        answer = _Answer()

        async def note(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.problem = state.get("problem")
                MutableHeaders(scope=message)[request_ids.ID_HEADER] = request_id
            await send(message)

        try:
            with self._metrics.requests_open.track_inprogress():
                await self._app(scope, receive, note)
        finally:
            self._write(scope, answer, perf_counter() - began)

    def _write(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        # The route's template, not the path: labels must not grow with the data.
        route = getattr(scope.get("route"), "path", UNROUTED)
        method = scope["method"] if scope["method"] in METHODS else OTHER
        status = str(answer.status)
        self._metrics.requests.labels(method=method, route=route, status=status).inc()
        self._metrics.request_seconds.labels(method=method, route=route).observe(seconds)
        if answer.problem is not None:
            self._metrics.problems.labels(code=answer.problem).inc()
        caller = scope["state"].get("caller")
        _log.info(
            "%s %s %d",
            method,
            scope["path"][:LOGGED_PATH],
            answer.status,
            extra={
                "action": "request",
                "route": route,
                "status": answer.status,
                "seconds": round(seconds, 6),
                "code": answer.problem,
                "caller": caller.name if caller is not None else None,
            },
        )
