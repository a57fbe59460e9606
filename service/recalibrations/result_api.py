"""The routes of results."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import RedirectResponse

from service.context import Context, Ctx
from service.repositories import results
from service.web.file_response import send, send_stream
from service.web.head import is_head
from service.web.media_types import prefers_html
from service.web.parameters import RecalibrationId
from service.workers.messages import (
    FOLDED,
    REPORT_HTML,
    REPORT_JSON,
    STATISTICS,
    UNFOLDED,
)

router = APIRouter(prefix="/v1/recalibrations/{recalibration}", tags=["results"])

Variant = Annotated[
    Literal["folded", "unfolded"],
    Query(description="With BatchNorm folded, or with BatchNorm kept."),
]
_VARIANTS = {"folded": FOLDED, "unfolded": UNFOLDED}


def _file(media_type: str) -> dict[int | str, dict[str, object]]:
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    return {200: {"content": content, "description": "The file."}}


@router.get("/model", response_class=Response, responses=_file("application/x-onnx"))
async def get_result_model(
    context: Ctx, request: Request, recalibration: RecalibrationId, variant: Variant = "folded"
) -> Response:
    """Return the recalibrated model."""
    return await send_result(
        context,
        request,
        recalibration,
        name=_VARIANTS[variant],
        media_type="application/x-onnx",
        download=f"{recalibration}-{variant}.onnx",
        redirect=True,
    )


@router.get("/statistics", response_class=Response, responses=_file("application/vnd.safetensors"))
async def get_statistics(
    context: Ctx, request: Request, recalibration: RecalibrationId
) -> Response:
    """Return the new running statistics: two float64 tensors for each layer."""
    return await send_result(
        context,
        request,
        recalibration,
        name=STATISTICS,
        media_type="application/vnd.safetensors",
        download=f"{recalibration}-statistics.safetensors",
        redirect=True,
    )


@router.get(
    "/report",
    response_class=Response,
    responses={
        200: {
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/html": {"schema": {"type": "string"}},
            },
            "description": "The report.",
        }
    },
)
async def get_report(context: Ctx, request: Request, recalibration: RecalibrationId) -> Response:
    """Return the report as JSON, or as HTML if the Accept header prefers it."""
    html = prefers_html(request.headers.get("accept"))
    name, media_type = (REPORT_HTML, "text/html") if html else (REPORT_JSON, "application/json")
    response = await send_result(context, request, recalibration, name=name, media_type=media_type)
    response.headers["Vary"] = "Accept"
    return response


async def send_result(
    context: Context,
    request: Request,
    recalibration: str,
    *,
    name: str,
    media_type: str,
    download: str | None = None,
    redirect: bool = False,
) -> Response:
    """Return a result file as a response.

    With `redirect`, it may be a redirect to the object store, which does not know `media_type` and
    `download`.
    """
    found = await context.ledger.read(lambda tx: results.get(tx, recalibration, name))
    content = results.content(recalibration, found)
    path = context.blobs.path(content.key)
    if path is not None:
        return await send(
            request, path, sha256=found.sha256, media_type=media_type, download=download
        )
    seconds = context.settings.result_url_seconds
    if redirect and seconds and not is_head(request):
        url = await asyncio.to_thread(context.blobs.signed_url, content.key, seconds)
        if url is not None:
            return RedirectResponse(url, 307, {"Cache-Control": "no-store"})
    return await send_stream(
        request,
        partial(context.blobs.stream, content),
        size=found.bytes,
        sha256=found.sha256,
        media_type=media_type,
        download=download,
    )
