"""The routes of batches."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.routing import APIRoute

from service.batches import operations, store
from service.batches.operations import Upload
from service.batches.schemas import BatchOut, BatchPage
from service.batches.store import StoredBatch
from service.context import Context, Ctx, context_of
from service.http import digests, media
from service.http.body import blocks
from service.http.pages import After, Limit, cut, read_cursor
from service.http.parameters import Digest, Key, RecalibrationId
from service.http.visibility import visible
from service.ledger.protocol import Transaction
from service.recalibrations import store as recalibrations

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
# An index as every client writes it, and within bounds.
_PLAIN_INDEX = re.compile("0|[1-9][0-9]{0,6}")


async def _put_quickly(general: Handler, request: Request) -> Response:
    index = request.path_params["index"]
    if _PLAIN_INDEX.fullmatch(index) is None:
        return await general(request)
    context = await context_of(request)
    await visible(request, context)
    recalibration = request.path_params["recalibration"]
    digest = request.headers.get("content-digest")
    upload = _upload(context, request, recalibration, index=int(index), digest=digest)
    batch, new = await operations.put(context, upload)
    return Response(
        BatchOut.of(batch).model_dump_json(),
        status_code=201 if new else 200,
        media_type="application/json",
    )


class BatchRoute(APIRoute):
    """Takes the ordinary request for storing a batch past the framework's general machinery.

    Most requests are of this one kind, and small batches cost more in solving dependencies and
    building a response than in being stored. Whatever is out of the ordinary goes the general way,
    which the documentation describes; a test holds the answers of both equal.
    """

    def get_route_handler(self) -> Handler:
        """Return the short way for PUT."""
        general = super().get_route_handler()
        return partial(_put_quickly, general) if self.methods == {"PUT"} else general


router = APIRouter(
    prefix="/v1/recalibrations/{recalibration}/batches", tags=["batches"], route_class=BatchRoute
)

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
    upload = _upload(context, request, recalibration, index=index, digest=content_digest)
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
    upload = _upload(context, request, recalibration, digest=content_digest, key=idempotency_key)
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


def _upload(
    context: Context,
    request: Request,
    recalibration: str,
    *,
    index: int | None = None,
    digest: str | None,
    key: str | None = None,
) -> Upload:
    limit = context.settings.batch_limit_bytes
    announced = request.headers.get("content-length", "")
    return Upload(
        recalibration=recalibration,
        index=index,
        format=media.batch_format(request),
        body=blocks(request, limit_bytes=limit, what="batch"),
        digest=digests.read(digest),
        announced=int(announced) if announced.isdecimal() else None,
        key=key,
    )
