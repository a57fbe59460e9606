"""Server-sent events, replayed from the ledger: a client that reconnects misses none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.context import Ctx
from service.errors import RequestInvalidError
from service.recalibrations import events
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED
from service.repositories.records import StoredEvent
from service.storage.ledger.protocol import Transaction
from service.web.head import is_head
from service.web.parameters import RecalibrationId

router = APIRouter(prefix="/v1/recalibrations/{recalibration}", tags=["recalibrations"])

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="Number of the last event that the client received."),
]
# The ledger is read again after this time even if no signal arrives.
POLL_SECONDS = 15.0
_MAX_DIGITS = 18  # fits into 64 bits
_DESCRIPTION = (
    "Events `state` and `progress`, whose `data` is the recalibration at that time as JSON, and "
    "`layers`, whose `data` is a `MeasuredLayersOut` with the layers that have been measured since "
    "the last such event. A run that begins (`state` with the state `running`) measures all again."
)


async def _position(
    context: Ctx,
    response: Response,
    recalibration: RecalibrationId,
    last_event_id: LastEventId = None,
) -> int:
    """Return the number of the event after which the stream starts; checked before it is opened."""
    # The framework adds `no-cache`; the state of a recalibration must not be stored either.
    response.headers["Cache-Control"] = "no-store"
    position = _number(last_event_id)
    await context.ledger.read(lambda tx: store.get(tx, recalibration))
    return position


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses={200: {"description": _DESCRIPTION}},
)
async def get_events(
    context: Ctx,
    request: Request,
    recalibration: RecalibrationId,
    position: Annotated[int, Depends(_position)],
) -> AsyncIterator[ServerSentEvent]:
    """Follow a recalibration until it has ended."""
    if is_head(request):
        return
    subscription = context.signals.subscribe(recalibration)
    try:
        with context.metrics.event_streams.track_inprogress():
            while True:
                found, ended = await context.ledger.read(
                    lambda tx: _look(tx, recalibration, position)  # noqa: B023 - awaited at once
                )
                for one in found:
                    position = one.seq
                    yield ServerSentEvent(event=one.kind, id=str(one.seq), raw_data=one.data)
                if (ended and not found) or context.signals.closed:
                    return
                if not found:
                    await subscription.wait(POLL_SECONDS)
    finally:
        subscription.close()


def _number(last: str | None) -> int:
    if last is None or last == "":
        return 0
    if not (last.isascii() and last.isdecimal() and len(last) <= _MAX_DIGITS):
        raise RequestInvalidError("Last-Event-ID must be the number of an event")
    return int(last)


def _look(tx: Transaction, recalibration: str, after: int) -> tuple[list[StoredEvent], bool]:
    """Return the events after a number, and whether the recalibration has ended or is deleted."""
    found = store.find(tx, recalibration)
    ended = found is None or found.state in ENDED
    return events.since(tx, recalibration, after), ended
