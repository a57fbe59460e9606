"""A route that calls its handler without the framework's dependency solving."""

from __future__ import annotations

from starlette.routing import Route
from starlette.types import Receive, Scope, Send


class DirectRoute(Route):
    """A Starlette route that records itself in the scope, as the framework's own routes do.

    The request log and the metrics read the path template of `scope["route"]`.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request that matches the path."""
        scope["route"] = self
        await super().handle(scope, receive, send)
