"""Server-sent events, replayed from the ledger: whoever comes late or comes back misses nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from service.context import Context, Ctx
from service.errors import RequestInvalidError
from service.middleware.head import is_head
from service.recalibrations import events as changes
from service.recalibrations.events import StoredEvent
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED
from service.signals import Subscription
from service.storage.ledger.protocol import Transaction
from service.web.parameters import RecalibrationId

router = APIRouter(prefix="/v1/recalibrations/{recalibration}", tags=["recalibrations"])

Last = Annotated[
    str | None, Header(alias="Last-Event-ID", description="Number of the last event that was seen.")
]
# Shorter than the idle limits of common proxies.
KEEPALIVE_SECONDS = 15.0
_MEDIA_TYPE = "text/event-stream"
_DESCRIPTION = "Events `state` and `progress`; the data is the recalibration as it then was."


@router.get(
    "/events",
    response_class=Response,
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": _DESCRIPTION,
        }
    },
)
async def get_events(
    context: Ctx, request: Request, recalibration: RecalibrationId, last_event_id: Last = None
) -> Response:
    """Follow a recalibration until it has ended."""
    after = _number(last_event_id)
    await context.ledger.read(lambda tx: store.get(tx, recalibration))
    if is_head(request):
        return StreamingResponse(iter(()), media_type=_MEDIA_TYPE)
    return StreamingResponse(_stream(context, recalibration, after), media_type=_MEDIA_TYPE)


def _number(last: str | None) -> int:
    if last is None or last == "":
        return 0
    if not (last.isascii() and last.isdecimal() and len(last) <= 18):  # noqa: PLR2004 - 64 bits
        raise RequestInvalidError("Last-Event-ID is the number of an event")
    return int(last)


async def _stream(context: Context, name: str, after: int) -> AsyncIterator[str]:
    subscription = context.signals.subscribe(name)
    try:
        with context.metrics.event_streams.track_inprogress():
            async for part in _follow(context, subscription, name, after):
                yield part
    finally:
        subscription.close()


async def _follow(
    context: Context, subscription: Subscription, name: str, after: int
) -> AsyncIterator[str]:
    while True:
        events, over = await context.ledger.read(
            lambda tx: _look(tx, name, after)  # noqa: B023 - awaited at once
        )
        for event in events:
            after = event.seq
            yield f"event: {event.kind}\nid: {event.seq}\ndata: {event.data}\n\n"
        if (over and not events) or context.signals.closed:
            return
        if not events and not await subscription.wait(KEEPALIVE_SECONDS):
            yield ": still here\n\n"


def _look(tx: Transaction, name: str, after: int) -> tuple[list[StoredEvent], bool]:
    found = store.find(tx, name)
    over = found is None or found.state in ENDED
    return changes.since(tx, name, after), over
