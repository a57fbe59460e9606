"""The routes of the Open Inference Protocol: recalibrations are models, inferences are batches."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Path, Request

from bn_ops.core.version import __version__
from service import health
from service.batches import operations
from service.batches.operations import Upload
from service.context import Context, Ctx
from service.errors import CapacityError
from service.openinference import body, schemas
from service.openinference.schemas import (
    InferOut,
    LiveOut,
    ModelConfig,
    ModelMetadata,
    ModelReadyOut,
    ReadyOut,
    ServerOut,
)
from service.repositories import recalibrations as store
from service.repositories.records import Recalibration
from service.web import content_digest as digests
from service.web.parameters import Digest, RecalibrationId
from service.web.request_body import blocks

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

HeaderLength = Annotated[
    str | None,
    Header(
        alias=body.HEADER_LENGTH, description="Length of the JSON in bytes if binary data follows."
    ),
]
MODEL = "/models/{recalibration}"
VERSIONED = "/models/{recalibration}/versions/{version}"


def _one_version(version: Annotated[Literal["1"], Path(description="Always 1.")]) -> None:
    """Reject any version but 1, the only one of a recalibration."""
    del version


OneVersion = [Depends(_one_version)]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": schemas.INFER_SCHEMA},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get("")
async def get_server() -> ServerOut:
    """Return the name of the server and the extensions that it supports."""
    extensions = ["binary_tensor_data", "model_configuration"]
    return ServerOut(name="bnrecal", version=__version__, extensions=extensions)


@router.get("/health/live")
async def get_live() -> LiveOut:
    """Return whether the process is running."""
    return LiveOut(live=True)


@router.get("/health/ready")
async def get_ready(context: Ctx) -> ReadyOut:
    """Return whether batches can be stored and runs can start; an error gives the reason."""
    failures, _ = await health.check(context)
    if failures:
        raise CapacityError("; ".join(failures))
    return ReadyOut(ready=True)


@router.get(MODEL)
@router.get(VERSIONED, dependencies=OneVersion)
async def get_metadata(context: Ctx, recalibration: RecalibrationId) -> ModelMetadata:
    """Return the metadata of a recalibration as a model."""
    return schemas.metadata(await _find(context, recalibration))


@router.get(f"{MODEL}/config")
@router.get(f"{VERSIONED}/config", dependencies=OneVersion)
async def get_config(context: Ctx, recalibration: RecalibrationId) -> ModelConfig:
    """Return Triton's configuration of a recalibration."""
    return schemas.config(await _find(context, recalibration))


@router.get(f"{MODEL}/ready")
@router.get(f"{VERSIONED}/ready", dependencies=OneVersion)
async def get_model_ready(context: Ctx, recalibration: RecalibrationId) -> ModelReadyOut:
    """Return whether a recalibration accepts batches; an error gives the reason."""
    found = await _find(context, recalibration)
    found.require_open()
    return ModelReadyOut(name=found.id, ready=True)


@router.post(f"{MODEL}/infer", openapi_extra=_BODY)
@router.post(f"{VERSIONED}/infer", dependencies=OneVersion, openapi_extra=_BODY)
async def infer(
    *,
    context: Ctx,
    request: Request,
    recalibration: RecalibrationId,
    content_digest: Digest = None,
    header_length: HeaderLength = None,
) -> InferOut:
    """Append the inputs as one batch. It is durable when the server responds."""
    found = await _find(context, recalibration)  # before anything large is parsed
    settings = context.settings
    limit = settings.batch_limit_bytes + settings.infer_json_limit_bytes
    incoming = await body.read(
        blocks(request, limit_bytes=limit, what="inference request"),
        body.read_header_length(header_length),
        image_input=found.image_input(),
        json_limit_bytes=settings.infer_json_limit_bytes,
        batch_limit_bytes=settings.batch_limit_bytes,
        parsing=context.json_parsing,
        digest=digests.read(content_digest),
    )
    upload = Upload(
        recalibration_id=recalibration,
        index=None,
        format=incoming.format,
        body=incoming.batch,
        digest=None,
        key=incoming.request.id or None,
        # Mirrored traffic ignores responses: a repeated id with other content must not lose the
        # batch.
        key_with_content=True,
    )
    batch, new = await operations.put(context, upload)
    return InferOut.of(recalibration, incoming.request.id, batch, new=new)


async def _find(context: Context, name: str) -> Recalibration:
    return await context.ledger.read(lambda tx: store.get(tx, name))
