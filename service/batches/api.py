"""The routes of batches: those of the target stream and, alike, those of the source stream."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from service.batches import operations
from service.batches.upload import PATHS, Upload, upload_of
from service.context import Context, Ctx, context_of
from service.repositories import batches as store
from service.repositories import recalibrations
from service.repositories.records import StoredBatch, Stream
from service.storage.ledger.protocol import Transaction
from service.web import media_types as media
from service.web.direct_route import DirectRoute
from service.web.parameters import After, Digest, Key, Limit, RecalibrationId, cut, read_cursor
from service.web.visibility import visible


class BatchOut(BaseModel):
    """A stored batch."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "index": 0,
                    "samples": 32,
                    "bytes": 100480,
                    "sha256": "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752",
                }
            ]
        }
    )

    index: int
    samples: int
    bytes: int
    sha256: str

    @staticmethod
    def of(batch: StoredBatch) -> BatchOut:
        """Return the wire form of a stored batch."""
        return BatchOut(
            index=batch.index, samples=batch.samples, bytes=batch.bytes, sha256=batch.sha256
        )


class BatchPage(BaseModel):
    """A page of batches in stream order."""

    items: list[BatchOut]
    next: str | None


_PREFIX = "/v1/recalibrations/{recalibration}"
router = APIRouter(prefix=f"{_PREFIX}/{PATHS[Stream.TARGET]}", tags=["batches"])
source_router = APIRouter(prefix=f"{_PREFIX}/{PATHS[Stream.SOURCE]}", tags=["batches"])

Index = Annotated[int, Path(ge=0, le=store.MAX_INDEX, description="Position in the stream.")]
_INDEX: TypeAdapter[int] = TypeAdapter(Index)
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {"requestBody": {"required": True, "content": dict.fromkeys(media.BATCH_TYPES, _BINARY)}}
_STORED_BEFORE: dict[int | str, dict[str, Any]] = {
    200: {"model": BatchOut, "description": "The same content is already stored."}
}
_KEY_USED_BEFORE: dict[int | str, dict[str, Any]] = {
    200: {"model": BatchOut, "description": "The same key was used before."}
}


# The routes that store under an index are registered here for the OpenAPI document; requests arrive
# through `DIRECT_ROUTES`.
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
    return await _put(context, request, recalibration, Stream.TARGET, index, content_digest)


@source_router.put(
    "/{index}",
    status_code=201,
    response_model=BatchOut,
    responses=_STORED_BEFORE,
    openapi_extra=_BODY,
)
async def put_source_batch(
    *,
    context: Ctx,
    request: Request,
    recalibration: RecalibrationId,
    index: Index,
    content_digest: Digest = None,
) -> Response:
    """Store a batch of the domain that the model was trained on, for a model without BatchNorm."""
    return await _put(context, request, recalibration, Stream.SOURCE, index, content_digest)


async def _put(  # noqa: PLR0917 - the parameters of the two routes
    context: Context,
    request: Request,
    recalibration: str,
    stream: Stream,
    index: int,
    digest: str | None,
) -> Response:
    upload = upload_of(context, request, recalibration, stream=stream, index=index, digest=digest)
    batch, new = await operations.put(context, upload)
    return Response(
        BatchOut.of(batch).model_dump_json(),
        status_code=201 if new else 200,
        media_type="application/json",
    )


def _direct_route(stream: Stream) -> DirectRoute:
    """Return the route that stores a batch of a stream under its index.

    It calls `_put` with the arguments that the framework would pass. Most requests are of this one
    kind, and for a small batch the framework's search for the route, its dependency solving and its
    building of the response cost more than storing the batch.
    """

    async def put(request: Request) -> Response:
        context = await context_of(request)
        await visible(request, context)
        path = request.path_params
        digest = request.headers.get("content-digest")
        index = _read_index(path["index"])
        return await _put(context, request, path["recalibration"], stream, index, digest)

    return DirectRoute(f"{_PREFIX}/{PATHS[stream]}/{{index}}", put, methods=["PUT"])


DIRECT_ROUTES = tuple(map(_direct_route, Stream))
"""Serve `put_batch` and `put_source_batch`; go ahead of the framework's routes."""


def _read_index(text: str) -> int:
    try:
        return _INDEX.validate_python(text)
    except ValidationError as error:
        faults = [one | {"loc": ("path", "index")} for one in error.errors()]
        raise RequestValidationError(faults) from error


@router.post("", status_code=201, responses=_KEY_USED_BEFORE, openapi_extra=_BODY)
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
    upload = upload_of(
        context,
        request,
        recalibration,
        stream=Stream.TARGET,
        digest=content_digest,
        key=idempotency_key,
    )
    return await _append(context, response, upload)


@source_router.post("", status_code=201, responses=_KEY_USED_BEFORE, openapi_extra=_BODY)
async def append_source_batch(
    *,
    context: Ctx,
    request: Request,
    response: Response,
    recalibration: RecalibrationId,
    content_digest: Digest = None,
    idempotency_key: Key = None,
) -> BatchOut:
    """Store a source batch at the next free index."""
    upload = upload_of(
        context,
        request,
        recalibration,
        stream=Stream.SOURCE,
        digest=content_digest,
        key=idempotency_key,
    )
    return await _append(context, response, upload)


async def _append(context: Context, response: Response, upload: Upload) -> BatchOut:
    batch, new = await operations.put(context, upload)
    response.status_code = 201 if new else 200
    folder = f"/v1/recalibrations/{upload.recalibration_id}/{PATHS[upload.stream]}"
    response.headers["Location"] = f"{folder}/{batch.index}"
    return BatchOut.of(batch)


@router.get("")
async def list_batches(
    context: Ctx, recalibration: RecalibrationId, after: After = None, limit: Limit = 100
) -> BatchPage:
    """List the stored batches in stream order, so that a client can resume an upload."""
    return await _page(context, recalibration, Stream.TARGET, after, limit)


@source_router.get("")
async def list_source_batches(
    context: Ctx, recalibration: RecalibrationId, after: After = None, limit: Limit = 100
) -> BatchPage:
    """List the stored source batches in stream order."""
    return await _page(context, recalibration, Stream.SOURCE, after, limit)


async def _page(
    context: Context, recalibration: str, stream: Stream, after: str | None, limit: int
) -> BatchPage:
    cursor = read_cursor(after, start=-1)

    def work(tx: Transaction) -> list[StoredBatch]:
        recalibrations.get(tx, recalibration)
        return store.page(tx, recalibration, stream, after=cursor, limit=limit + 1)

    items, following = cut(await context.ledger.read(work), limit, lambda batch: batch.index)
    return BatchPage(items=[BatchOut.of(batch) for batch in items], next=following)
