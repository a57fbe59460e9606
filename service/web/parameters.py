"""Parameters of several routes: headers, parts of the path, and the dispatcher."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path, Request

from service.recalibrations.dispatch import Dispatcher
from service.repositories import idempotency

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Makes retries of the request safe.",
        min_length=1,
        max_length=idempotency.LONGEST_KEY,
    ),
]
Digest = Annotated[
    str | None,
    Header(alias="Content-Digest", description="Digest of the body (RFC 9530), sha-256."),
]
RecalibrationId = Annotated[str, Path(description="Id of a recalibration.")]


async def _dispatcher(request: Request) -> Dispatcher:
    """Return what runs recalibrations.

    A coroutine, although it waits for nothing: the framework sends plain functions to a thread.
    """
    dispatcher = request.app.state.dispatcher
    assert isinstance(dispatcher, Dispatcher)
    return dispatcher


Runs = Annotated[Dispatcher, Depends(_dispatcher)]
