"""The routes of models, and their wire schemas."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel, ConfigDict

from service.context import Ctx
from service.models import operations
from service.repositories import models as store
from service.repositories.records import StoredModel
from service.web import content_digest as digests
from service.web import media_types as media
from service.web.parameters import After, Digest, Limit, cut, read_cursor
from service.web.request_body import blocks

# Without null values: the framework omits them from the document.
_EXAMPLE: dict[str, Any] = {
    "id": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "bytes": 322570,
    "created": "2026-11-21T09:30:00.000Z",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 1, 28, 28]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["N", 10]}],
    "layers": [
        {
            "name": "features.1",
            "channels": 16,
            "eps": 1e-05,
            "affine": True,
            "input_rank": 4,
            "reason": "the layer is in training mode",
        }
    ],
    "warnings": [],
    "needs_source_batches": False,
}


class TensorOut(BaseModel):
    """An input or output; a null axis has any size, a null shape is unknown."""

    name: str
    dtype: str
    shape: list[int | str | None] | None


class LayerOut(BaseModel):
    """A BatchNorm layer; `reason` is why it cannot be recalibrated, or null."""

    name: str
    channels: int | None
    eps: float
    affine: bool
    input_rank: int | None
    reason: str | None


class ModelOut(BaseModel):
    """An uploaded model.

    With `needs_source_batches`, its BatchNorm layers are missing or folded, and a run inserts them.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    bytes: int
    created: str
    inputs: list[TensorOut]
    outputs: list[TensorOut]
    layers: list[LayerOut]
    warnings: list[str]
    needs_source_batches: bool

    @staticmethod
    def of(model: StoredModel) -> ModelOut:
        """Return the wire form of a stored model."""
        fields: dict[str, Any] = {
            "id": model.id,
            "bytes": model.bytes,
            "created": model.created,
            "needs_source_batches": model.without_batchnorm() is not None,
        }
        return ModelOut.model_validate(fields | model.description)


class ModelPage(BaseModel):
    """A page of models."""

    items: list[ModelOut]
    next: str | None


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
