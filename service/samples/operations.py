"""Preview and predict a few samples with a model; nothing is stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from bn_ops.preprocess import check_preprocess, preprocess_from_json
from bn_ops.preprocess.images import require_pillow
from service.context import Context
from service.errors import NotFoundError, WorkerError
from service.formats.layout import json_object
from service.formats.registry import FORMATS
from service.repositories import models, recalibrations, results
from service.repositories.records import Recalibration, StoredModel, StoredResult
from service.samples.schemas import PredictionsOut, PreviewOut
from service.storage.blobs.protocol import Draft
from service.storage.ledger.protocol import Transaction
from service.web import media_types as media
from service.web.request_body import blocks
from service.workers.messages import FOLDED
from service.workers.protocol import SampleFile

_T = TypeVar("_T", bound=BaseModel)

MAX_BYTES = 256 << 20
"""Far more than 64 samples need; the limit of a batch may be lower."""


async def preview(
    context: Context,
    request: Request,
    model: str,
    *,
    preprocess: str | None,
    size: Sequence[int] | None,
) -> PreviewOut:
    """Return what a model sees of the samples in a request.

    Args:
        context: context of the request.
        request: its body holds the samples.
        model: id of the model.
        preprocess: steps from an image to an array as JSON; None for the preset that fits best.
        size: height and width of the images where the model leaves them open.

    Raises:
        NotFoundError: there is no such model.
        OptionError, RequestInvalidError: the preprocessing is malformed or does not fit the model.
        MediaTypeError, TooLargeError: the body is not a batch, or too large.
        RefusedError: a worker cannot read the samples.
    """
    scope = context.caller.scope
    found = await context.ledger.read(lambda tx: models.get(tx, model, owner=scope))
    kind = media.batch_format(request)
    form = None
    if preprocess is not None:
        value = preprocess_from_json(json_object(preprocess, "preprocess"))
        check_preprocess(value, found.inputs())
        form = value.to_json()
    if FORMATS[kind].images is not None:
        require_pillow()
    async with (
        _received(context, request) as file,
        context.blobs.local(models.content(found.folder, found.bytes)) as path,
    ):
        samples = SampleFile(
            model=path,
            inputs=found.description["inputs"],
            file=file,
            format=kind,
            options={"preprocess": form, "size": None if size is None else list(size)},
        )
        return _checked(PreviewOut, await context.executor.preview(samples))


async def predict(context: Context, request: Request, recalibration: str) -> PredictionsOut:
    """Return predictions for the samples in a request with the model before and after.

    Raises:
        NotFoundError: there is no such recalibration, or its model was deleted.
        RecalibrationNotFinishedError, RecalibrationFailedError: it has no result.
        MediaTypeError, TooLargeError: the body is not a batch, or too large.
        RefusedError: a worker cannot read the samples.
    """
    kind = media.batch_format(request)

    def work(tx: Transaction) -> tuple[Recalibration, StoredModel | None, StoredResult]:
        result = results.get(tx, recalibration, FOLDED)
        found = recalibrations.get(tx, recalibration)
        return found, models.find(tx, found.model), result

    found, model, result = await context.ledger.read(work)
    if model is None:
        raise NotFoundError("the model that was recalibrated has been deleted")
    async with (
        _received(context, request) as file,
        context.blobs.local(models.content(model.folder, model.bytes)) as before,
        context.blobs.local(results.content(recalibration, result)) as after,
    ):
        samples = SampleFile(
            model=before,
            inputs=found.inputs,
            file=file,
            format=kind,
            options={"preprocess": found.options.get("preprocess")},
        )
        return _checked(PredictionsOut, await context.executor.predict(samples, after))


@asynccontextmanager
async def _received(context: Context, request: Request) -> AsyncIterator[Path]:
    """Yield a file with the body of a request; it is deleted afterwards."""
    limit = min(MAX_BYTES, context.settings.batch_limit_bytes)
    draft = await asyncio.to_thread(context.blobs.draft)
    try:
        await _write(draft, blocks(request, limit_bytes=limit, what="sample file"))
        yield draft.path
    finally:
        await asyncio.to_thread(draft.discard)


async def _write(draft: Draft, body: AsyncIterator[bytearray]) -> None:
    async for block in body:
        await asyncio.to_thread(draft.write, block)


def _checked(kind: type[_T], answer: dict[str, Any]) -> _T:
    """Check an answer, which comes from a process that has parsed untrusted files.

    Raises:
        WorkerError: it is malformed.
    """
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        raise WorkerError("the worker sent a malformed answer") from error
