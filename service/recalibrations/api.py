"""The routes of recalibrations."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from service.context import Ctx
from service.recalibrations import events, operations
from service.recalibrations.dispatch import Runs
from service.recalibrations.schemas import (
    MeasuredLayersOut,
    RecalibrationIn,
    RecalibrationOut,
    RecalibrationPage,
    StartIn,
)
from service.recalibrations.waiting import until_ended, until_ended_or_gone
from service.repositories import recalibrations as store
from service.repositories.records import Recalibration
from service.storage.ledger.protocol import Transaction
from service.web.parameters import (
    MAX_CURSOR,
    After,
    Key,
    Limit,
    RecalibrationId,
    cut,
    read_cursor,
)
from service.web.request_body import client_disconnected

router = APIRouter(prefix="/v1/recalibrations", tags=["recalibrations"])

# Shorter than the idle timeouts of common proxies and clients.
MAX_WAIT_SECONDS = 20.0
Wait = Annotated[
    float,
    Query(
        ge=0,
        le=MAX_WAIT_SECONDS,
        description="Seconds to wait for the recalibration to end.",
    ),
]


@router.post("", status_code=201)
async def create_recalibration(
    context: Ctx, response: Response, asked: RecalibrationIn, idempotency_key: Key = None
) -> RecalibrationOut:
    """Open a recalibration of an uploaded model."""
    created = await operations.create(context, asked, key=idempotency_key)
    response.headers["Location"] = f"/v1/recalibrations/{created.id}"
    return created


@router.get("")
async def list_recalibrations(
    context: Ctx,
    after: After = None,
    limit: Limit = 100,
    order: Annotated[
        Literal["oldest", "newest"], Query(description="Which recalibrations come first.")
    ] = "oldest",
    search: Annotated[
        str | None,
        Query(
            max_length=200,
            description="Only those whose name, tags, id, model, state or verdict contain this "
            "text; the newest come first.",
        ),
    ] = None,
) -> RecalibrationPage:
    """List the recalibrations."""
    scope = context.caller.scope
    newest_first = order == "newest" or search is not None
    cursor = read_cursor(after, start=MAX_CURSOR if newest_first else 0)

    def work(tx: Transaction) -> list[Recalibration]:
        if newest_first:
            return store.newest(tx, before_seq=cursor, limit=limit + 1, search=search, owner=scope)
        return store.page(tx, after_seq=cursor, limit=limit + 1, owner=scope)

    found = await context.ledger.read(work)
    items, following = cut(found, limit, lambda one: one.seq)
    return RecalibrationPage(items=[RecalibrationOut.of(one) for one in items], next=following)


@router.get("/{recalibration}")
async def get_recalibration(
    context: Ctx, request: Request, recalibration: RecalibrationId, wait: Wait = 0.0
) -> RecalibrationOut:
    """Return a recalibration with its state, progress, counts and error."""
    found = None
    if wait:
        found = await until_ended_or_gone(
            context, recalibration, lambda: client_disconnected(request), seconds=wait
        )
    return RecalibrationOut.of(found or await until_ended(context, recalibration, seconds=0))


@router.get("/{recalibration}/layers")
async def get_layers(context: Ctx, recalibration: RecalibrationId) -> MeasuredLayersOut:
    """Return the layers that the current or last run has measured so far, with their drift."""

    def work(tx: Transaction) -> MeasuredLayersOut:
        store.get(tx, recalibration)
        return events.layers(tx, recalibration)

    return await context.ledger.read(work)


@router.delete("/{recalibration}", status_code=204)
async def delete_recalibration(context: Ctx, runs: Runs, recalibration: RecalibrationId) -> None:
    """Delete a recalibration with all its data; an active run is killed."""
    await operations.delete(context, runs, recalibration)


@router.post("/{recalibration}/start", status_code=202)
async def start_recalibration(
    context: Ctx, runs: Runs, recalibration: RecalibrationId, asked: StartIn
) -> RecalibrationOut:
    """Seal the stream and queue the run."""
    found = await operations.start(
        context,
        runs,
        recalibration,
        asked.batches,
        source_total=asked.source_batches,
        report=asked.report,
    )
    return RecalibrationOut.of(found)


@router.post("/{recalibration}/cancel", status_code=202)
async def cancel_recalibration(
    context: Ctx, runs: Runs, recalibration: RecalibrationId
) -> RecalibrationOut:
    """Cancel a recalibration; an active run is killed."""
    return RecalibrationOut.of(await operations.cancel(context, runs, recalibration))
