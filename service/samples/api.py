"""The routes for previews and predictions of a few samples."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from service.context import Ctx
from service.models.api import ModelId
from service.samples import operations
from service.samples.schemas import PredictionsOut, PreviewOut
from service.web import media_types as media
from service.web.parameters import RecalibrationId

router = APIRouter(prefix="/v1", tags=["samples"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {"requestBody": {"required": True, "content": dict.fromkeys(media.BATCH_TYPES, _BINARY)}}
_Side = Annotated[int, Query(ge=1, le=8192)]


@router.post("/models/{model}/preview", openapi_extra=_BODY)
async def preview_samples(
    *,
    context: Ctx,
    request: Request,
    model: ModelId,
    preprocess: Annotated[
        str | None,
        Query(
            max_length=4096,
            description="The steps from an image to an array, a JSON object as `preprocess` of a "
            "recalibration; by default the preset that fits best.",
            examples=['{"resize": 256, "crop": 224}'],
            json_schema_extra={"contentMediaType": "application/json"},
        ),
    ] = None,
    height: Annotated[
        _Side | None, Query(description="Height of images where the model leaves it open.")
    ] = None,
    width: Annotated[
        _Side | None, Query(description="Width of images where the model leaves it open.")
    ] = None,
) -> PreviewOut:
    """Show what a model sees of some samples, and which preprocessing fits.

    The body is a batch. Its first 64 samples are used, and nothing is stored. Images that cannot be
    used are listed as skipped.
    """
    size = None if height is None or width is None else (height, width)
    return await operations.preview(context, request, model, preprocess=preprocess, size=size)


@router.post("/recalibrations/{recalibration}/predictions", openapi_extra=_BODY)
async def predict_samples(
    context: Ctx, request: Request, recalibration: RecalibrationId
) -> PredictionsOut:
    """Predict some samples with the model before and after a recalibration.

    The body is a batch. Its first 64 samples are used, and nothing is stored.
    """
    return await operations.predict(context, request, recalibration)
