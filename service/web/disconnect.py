"""Notice that a client has gone."""

from __future__ import annotations

import contextlib

from fastapi import Request

from service.errors import ServiceError


async def gone(request: Request) -> None:
    """Return when a request's client has closed its connection, or sends no right body."""
    with contextlib.suppress(ServiceError):
        while (await request.receive())["type"] != "http.disconnect":
            pass
