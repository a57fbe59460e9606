"""The route `POST /v1/recalibrate`."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from bn_ops.diagnostics.report import VerdictCode
from service import problems
from service.context import Ctx
from service.errors import RecalibrationFailedError, ShuttingDownError
from service.oneshot import operations
from service.oneshot.form import MEDIA_TYPE
from service.recalibrations.dispatch import Runs
from service.recalibrations.result_api import send_result
from service.repositories.lifecycle import State
from service.repositories.records import Recalibration
from service.web.parameters import Key
from service.web.problem_responses import instance_of, refused, respond
from service.web.request_body import announced_bytes, blocks, client_disconnected
from service.workers.messages import FOLDED

router = APIRouter(prefix="/v1", tags=["recalibrations"])

VERDICT_HEADER = "X-Bnrecal-Verdict"
_FILE = {"type": "string", "format": "binary"}
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["model", "data"],
    "properties": {
        "model": {
            **_FILE,
            "description": "ONNX model with BatchNorm layers, or without them if `source` is sent.",
        },
        "data": {
            "type": "array",
            "items": _FILE,
            "description": "One or more files, each a batch. The part's content type or the file "
            "name selects the format.",
        },
        "source": {
            "type": "array",
            "items": _FILE,
            "description": "For a model without BatchNorm layers: samples of the domain that it "
            "was trained on, as `data`.",
        },
        "options": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "The request that opens a recalibration, without `model`.",
            "examples": ['{"method": "exact", "estimator": {"name": "shrink"}}'],
        },
    },
}
_ONNX = {
    "content": {"application/x-onnx": {"schema": _FILE}},
    "description": "The recalibrated, folded and verified model.",
    "headers": {
        "Location": {"schema": {"type": "string"}, "description": "The recalibration."},
        VERDICT_HEADER: {
            "schema": {"type": "string", "enum": [str(code) for code in VerdictCode]},
            "description": "Code of the verdict: whether to deploy the model. Its sentence and "
            "reasons are in the recalibration.",
        },
    },
}


@router.post(
    "/recalibrate",
    response_class=Response,
    responses={200: _ONNX},
    openapi_extra={"requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": _FORM}}}},
)
async def recalibrate(
    context: Ctx,
    runs: Runs,
    request: Request,
    idempotency_key: Key = None,
) -> Response:
    """Send model and data in one form and receive the recalibrated model.

    The server creates an ordinary recalibration, which `Location` names. It is cancelled when the
    client closes the connection, unless the client sent an Idempotency-Key for a later retry.
    """
    settings = context.settings
    limit = settings.model_limit_bytes + settings.recalibration_limit_bytes
    form = await operations.receive(
        context,
        request.headers.get("content-type", ""),
        blocks(request, limit_bytes=limit, what="form"),
        announced_bytes(request) or 0,
    )
    try:
        name = await operations.begin(context, runs, form, key=idempotency_key)
    finally:
        await asyncio.shield(asyncio.to_thread(form.discard))
    location = {"Location": f"/v1/recalibrations/{name}"}
    try:
        keep = idempotency_key is not None
        found = await operations.ended(
            context, runs, name, lambda: client_disconnected(request), keep=keep
        )
    except ShuttingDownError as error:
        return refused(request.scope, error, location)
    if found is None:
        return Response(status_code=499, headers=location)  # only for the log: the client is gone
    if found.state is not State.SUCCEEDED:
        return respond(_problem(request, found), location)
    response = await send_result(
        context,
        request,
        name,
        name=FOLDED,
        media_type="application/x-onnx",
        download="recalibrated.onnx",
    )
    response.headers.update(location)
    if found.verdict is not None:
        response.headers[VERDICT_HEADER] = str(found.verdict["code"])
    return response


def _problem(request: Request, found: Recalibration) -> dict[str, Any]:
    """Return the problem document for a recalibration without a result."""
    instance = instance_of(request.scope)
    if found.error is None:
        error = RecalibrationFailedError("the recalibration was cancelled", state=str(found.state))
        return problems.from_error(error, instance=instance)
    return found.error | ({} if instance is None else {"instance": instance})
