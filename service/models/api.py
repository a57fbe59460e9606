"""The routes of models."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from service.context import Ctx
from service.models import operations
from service.models.schemas import ModelOut, ModelPage
from service.repositories import models as store
from service.web import content_digest as digests
from service.web import media_types as media
from service.web.pagination import After, Limit, cut, read_cursor
from service.web.parameters import Digest
from service.web.request_body import blocks

router = APIRouter(prefix="/v1/models", tags=["models"])

ModelId = Annotated[str, Path(description="SHA-256 of the model's bytes, hexadecimal.")]
_BINARY = {"schema": {"type": "string", "format": "binary"}}


@router.post(
    "",
    status_code=201,
    responses={200: {"model": ModelOut, "description": "The same bytes are already stored."}},
    openapi_extra={
        "requestBody": {"required": True, "content": dict.fromkeys(media.MODEL_TYPES, _BINARY)}
    },
)
async def upload_model(
    context: Ctx, request: Request, response: Response, content_digest: Digest = None
) -> ModelOut:
    """Upload an ONNX model that still has its BatchNormalization nodes.

    A model with external data files is uploaded together with them, as one zip archive.
    """
    media.require_model(request)
    digest = digests.read(content_digest)
    body = blocks(request, limit_bytes=context.settings.model_limit_bytes, what="model")
    model, new = await operations.upload(context, body, digest=digest)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/models/{model.id}"
    return ModelOut.of(model)


@router.get("")
async def list_models(context: Ctx, after: After = None, limit: Limit = 100) -> ModelPage:
    """List the models, oldest first."""
    cursor = read_cursor(after, start=0)
    scope = context.caller.scope
    found = await context.ledger.read(
        lambda tx: store.page(tx, after=cursor, limit=limit + 1, owner=scope)
    )
    items, following = cut(found, limit, lambda model: model.seq)
    return ModelPage(items=[ModelOut.of(model) for model in items], next=following)


@router.get("/{model}")
async def get_model(context: Ctx, model: ModelId) -> ModelOut:
    """Return the description of a model."""
    scope = context.caller.scope
    return ModelOut.of(await context.ledger.read(lambda tx: store.get(tx, model, owner=scope)))


@router.delete("/{model}", status_code=204)
async def delete_model(context: Ctx, model: ModelId) -> None:
    """Delete a model that no active recalibration uses."""
    await operations.delete(context, model)
