"""The routes of batches."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from service.batches import operations
from service.batches.schemas import BatchOut, BatchPage
from service.batches.upload import upload_of
from service.context import Ctx, context_of
from service.repositories import batches as store
from service.repositories import recalibrations
from service.repositories.records import StoredBatch
from service.storage.ledger.protocol import Transaction
from service.web import media_types as media
from service.web.direct_route import DirectRoute
from service.web.pagination import After, Limit, cut, read_cursor
from service.web.parameters import Digest, Key, RecalibrationId
from service.web.visibility import visible

router = APIRouter(prefix="/v1/recalibrations/{recalibration}/batches", tags=["batches"])

Index = Annotated[int, Path(ge=0, le=store.MAX_INDEX, description="Position in the stream.")]
_INDEX: TypeAdapter[int] = TypeAdapter(Index)
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {"requestBody": {"required": True, "content": dict.fromkeys(media.BATCH_TYPES, _BINARY)}}
_STORED_BEFORE: dict[int | str, dict[str, Any]] = {
    200: {"model": BatchOut, "description": "The same content is already stored."}
}


# Registered here for the OpenAPI document; requests arrive through `DIRECT_ROUTE`.
@router.put(
    "/{index}",
    status_code=201,
    response_model=BatchOut,
    responses=_STORED_BEFORE,
    openapi_extra=_BODY,
)
async def put_batch(
    *,
    context: Ctx,
    request: Request,
    recalibration: RecalibrationId,
    index: Index,
    content_digest: Digest = None,
) -> Response:
    """Store a batch under its index. It is durable when the server responds."""
    upload = upload_of(context, request, recalibration, index=index, digest=content_digest)
    batch, new = await operations.put(context, upload)
    return Response(
        BatchOut.of(batch).model_dump_json(),
        status_code=201 if new else 200,
        media_type="application/json",
    )


async def _put_batch(request: Request) -> Response:
    """Call `put_batch` with the arguments that the framework would pass.

    Most requests are of this one kind, and for a small batch the framework's search for the route,
    its dependency solving and its building of the response cost more than storing the batch.
    """
    context = await context_of(request)
    await visible(request, context)
    return await put_batch(
        context=context,
        request=request,
        recalibration=request.path_params["recalibration"],
        index=_read_index(request.path_params["index"]),
        content_digest=request.headers.get("content-digest"),
    )


DIRECT_ROUTE = DirectRoute(f"{router.prefix}/{{index}}", _put_batch, methods=["PUT"])
"""Serves `put_batch`; goes ahead of the framework's routes."""


def _read_index(text: str) -> int:
    try:
        return _INDEX.validate_python(text)
    except ValidationError as error:
        faults = [one | {"loc": ("path", "index")} for one in error.errors()]
        raise RequestValidationError(faults) from error


@router.post(
    "",
    status_code=201,
    responses={200: {"model": BatchOut, "description": "The same key was used before."}},
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
    """List the stored batches in stream order, so that a client can resume an upload."""
    cursor = read_cursor(after, start=-1)

    def work(tx: Transaction) -> list[StoredBatch]:
        recalibrations.get(tx, recalibration)
        return store.page(tx, recalibration, after=cursor, limit=limit + 1)

    items, following = cut(await context.ledger.read(work), limit, lambda batch: batch.index)
    return BatchPage(items=[BatchOut.of(batch) for batch in items], next=following)
