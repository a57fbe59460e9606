"""The routes of batches."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from service.batches import operations
from service.batches.incoming import upload_of
from service.batches.schemas import BatchOut, BatchPage
from service.context import Ctx
from service.repositories import batches as store
from service.repositories import recalibrations
from service.repositories.batches import StoredBatch
from service.storage.ledger.protocol import Transaction
from service.web import media_types as media
from service.web.pagination import After, Limit, cut, read_cursor
from service.web.parameters import Digest, Key, RecalibrationId

router = APIRouter(prefix="/v1/recalibrations/{recalibration}/batches", tags=["batches"])

Index = Annotated[int, Path(ge=0, le=store.LARGEST_INDEX, description="Place in the stream.")]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {"requestBody": {"required": True, "content": dict.fromkeys(media.BATCH_FORMATS, _BINARY)}}


@router.put(
    "/{index}",
    status_code=201,
    responses={200: {"model": BatchOut, "description": "The same content was stored before."}},
    openapi_extra=_BODY,
)
async def put_batch(
    *,
    context: Ctx,
    request: Request,
    response: Response,
    recalibration: RecalibrationId,
    index: Index,
    content_digest: Digest = None,
) -> BatchOut:
    """Store a batch under its index; when this answers, it is on the disk."""
    upload = upload_of(context, request, recalibration, index=index, digest=content_digest)
    batch, new = await operations.put(context, upload)
    response.status_code = 201 if new else 200
    return BatchOut.of(batch)


@router.post(
    "",
    status_code=201,
    responses={200: {"model": BatchOut, "description": "The same key came before."}},
    openapi_extra=_BODY,
)
async def append_batch(
    *,
    context: Ctx,
    request: Request,
    response: Response,
    recalibration: RecalibrationId,
    content_digest: Digest = None,
    idempotency_key: Key = None,
) -> BatchOut:
    """Store a batch at the next free index."""
    upload = upload_of(context, request, recalibration, digest=content_digest, key=idempotency_key)
    batch, new = await operations.put(context, upload)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/recalibrations/{recalibration}/batches/{batch.index}"
    return BatchOut.of(batch)


@router.get("")
async def list_batches(
    context: Ctx, recalibration: RecalibrationId, after: After = None, limit: Limit = 100
) -> BatchPage:
    """List what has arrived, in the order of the stream, so that a client can resume."""
    cursor = read_cursor(after, start=-1)

    def work(tx: Transaction) -> list[StoredBatch]:
        recalibrations.get(tx, recalibration)
        return store.page(tx, recalibration, after=cursor, limit=limit + 1)

    items, following = cut(await context.ledger.read(work), limit, lambda batch: batch.index)
    return BatchPage(items=[BatchOut.of(batch) for batch in items], next=following)
