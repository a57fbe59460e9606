"""The steps of a one-shot request, the same that a client would request one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.batches import operations as batches
from service.batches.operations import Upload
from service.context import Context
from service.errors import RequestInvalidError, ServiceError, ShuttingDownError
from service.models import operations as models
from service.oneshot.form import File, FormReader
from service.recalibrations import operations
from service.recalibrations.dispatch import Dispatcher
from service.recalibrations.schemas import RecalibrationIn, ReportDetailsIn
from service.recalibrations.waiting import until_ended_or_gone
from service.repositories import idempotency, usage
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED, State
from service.repositories.records import Recalibration, Stream
from service.storage.ledger.protocol import Transaction
from service.web import media_types as media
from service.web.content_digest import sha256_of
from service.web.problem_responses import validation_faults
from service.web.request_body import BLOCK_BYTES


async def receive(
    context: Context, content_type: str, body: AsyncIterator[bytearray], announced: int
) -> FormReader:
    """Receive a form; no file remains after an error.

    Raises:
        MediaTypeError, RequestInvalidError, TooLargeError: the form is invalid.
        CapacityError: the form could not be stored.
    """
    # Rejected now instead of after hours of upload.
    await context.ledger.read(lambda tx: usage.check_total(tx, context.settings, announced))
    form = FormReader(content_type, context.settings, context.blobs.draft)
    try:
        async for block in body:
            await asyncio.to_thread(form.feed, block)
        form.finish()
    except BaseException:
        await asyncio.shield(asyncio.to_thread(form.discard))
        raise
    return form


async def begin(
    context: Context, dispatcher: Dispatcher, form: FormReader, *, key: str | None
) -> str:
    """Store the model, open a recalibration, store the batches and start the run.

    No recalibration remains after an error.

    Args:
        context: context of the request.
        dispatcher: runs the recalibration.
        form: the complete form.
        key: the client's Idempotency-Key; a repeated form gives the same recalibration.

    Returns:
        The id of the recalibration.

    Raises:
        RequestInvalidError, OptionError: the options are invalid.
        IdempotencyKeyReusedError: the key was used with another form.
        RefusedError, BatchError: the model or a file is invalid.
        CapacityError, QuotaError: a limit was reached.
    """
    asked = read_options(bytes(form.options))
    streams = {
        stream: [(file, media.part_format(file.media_type, file.name)) for file in files]
        for stream, files in ((Stream.TARGET, form.data), (Stream.SOURCE, form.source))
    }
    totals = len(form.data), len(form.source)
    model, _ = await models.upload(context, _blocks(form.finish().draft.path), digest=None)
    asked = asked.model_copy(update={"model": model.id})
    known = None if key is None else await replay(context, key, asked, form.data, form.source)
    if known is not None and (again := await known.lookup(context)) is not None:
        return await _resume(context, dispatcher, again, *totals, _names(form))
    created = await operations.create(context, asked, key=None)
    try:
        for stream, files in streams.items():
            await _send(context, created.id, stream, files)
        recalibration_id = created.id if known is None else await known.bind(context, created.id)
        if recalibration_id != created.id:
            await _forget(context, dispatcher, created.id)
        return await _resume(context, dispatcher, recalibration_id, *totals, _names(form))
    except BaseException:
        await asyncio.shield(_forget(context, dispatcher, created.id))
        raise


async def _send(
    context: Context, recalibration_id: str, stream: Stream, files: Sequence[tuple[File, str]]
) -> None:
    """Store files of a form, each with its format, as batches; remove each from the form."""
    for index, (file, kind) in enumerate(files):
        upload = Upload(
            recalibration_id=recalibration_id,
            index=index,
            format=kind,
            body=_blocks(file.draft.path),
            digest=None,
            stream=stream,
            draft=file.draft,
        )
        await batches.put(context, upload)
        await asyncio.to_thread(file.draft.discard)


def _names(form: FormReader) -> ReportDetailsIn:
    """Return the file names of a form, for the report; those that cannot be shown are left out."""
    model, data = form.finish().name, [file.name for file in form.data]
    names = data[0] if len(data) == 1 else f"{data[0]} and {len(data) - 1} more"
    try:
        return ReportDetailsIn(model_name=model or None, data_name=names if data[0] else None)
    except ValidationError:
        return ReportDetailsIn()


async def _resume(  # noqa: PLR0917 - the arguments of one start
    context: Context,
    dispatcher: Dispatcher,
    recalibration_id: str,
    total: int,
    source_total: int,
    report: ReportDetailsIn,
) -> str:
    """Start the recalibration, unless it is started already."""
    found = await context.ledger.read(lambda tx: store.get(tx, recalibration_id))
    if found.state is State.OPEN:
        await operations.start(
            context,
            dispatcher,
            recalibration_id,
            total,
            source_total=source_total,
            report=report,
        )
    return recalibration_id


async def ended(
    context: Context,
    dispatcher: Dispatcher,
    recalibration_id: str,
    gone: Callable[[], Awaitable[None]],
    *,
    keep: bool,
) -> Recalibration | None:
    """Wait until a recalibration has ended; return None if the client disconnects first.

    Args:
        context: context of the request.
        dispatcher: kills the worker of a cancelled run.
        recalibration_id: the recalibration.
        gone: returns when the client has disconnected.
        keep: whether the run continues without the client, which has a key to retry with;
            otherwise it is cancelled.

    Raises:
        ShuttingDownError: the server is shutting down; the run continues after its next start.
    """
    found = await until_ended_or_gone(context, recalibration_id, gone)
    if found is None:
        if not keep:
            with contextlib.suppress(ServiceError):  # it has just ended
                await operations.cancel(context, dispatcher, recalibration_id)
        return None
    if found.state not in ENDED:
        raise ShuttingDownError("the server is shutting down; the run continues when it is back")
    return found


def read_options(content: bytes) -> RecalibrationIn:
    """Return the part `options`: the request that opens a recalibration, without its model.

    Raises:
        RequestInvalidError: not such a JSON object.
    """
    try:
        said: Any = json.loads(content or b"{}")
        if not isinstance(said, dict) or "model" in said:
            raise RequestInvalidError("options must be a JSON object without the member `model`")
        return RecalibrationIn.model_validate(said | {"model": ""})
    except ValidationError as error:
        faults = validation_faults(error.errors())
        raise RequestInvalidError(f"options: {'; '.join(faults)}", faults=faults) from error
    except (ValueError, RecursionError) as error:
        raise RequestInvalidError("options are not valid JSON") from error


async def _forget(context: Context, dispatcher: Dispatcher, recalibration_id: str) -> None:
    with contextlib.suppress(ServiceError):  # the cleanup removes what is never started
        await operations.delete(context, dispatcher, recalibration_id)


async def _blocks(path: Path) -> AsyncIterator[bytearray]:
    """Yield a file in blocks like a body: at least one."""
    with await asyncio.to_thread(path.open, "rb") as file:
        block = await asyncio.to_thread(file.read, BLOCK_BYTES)
        yield bytearray(block)
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield bytearray(block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """An idempotency key and the request that it belongs to.

    A repeated form finds its recalibration by it.

    Attributes:
        scope: the route and the caller, who owns the key.
        key: the value that the client sent.
        request: fingerprint of model, options and data.
    """

    scope: str
    key: str
    request: str

    async def lookup(self, context: Context) -> str | None:
        """Return the id of the key's recalibration; None if it does not exist or was deleted.

        Raises:
            IdempotencyKeyReusedError: the key was used with another form.
        """
        return await context.ledger.write(self._find)

    async def bind(self, context: Context, recalibration_id: str) -> str:
        """Bind the key to a recalibration; return its id, or that of a concurrent request."""

        def work(tx: Transaction) -> str:
            if (known := self._find(tx)) is not None:
                return known
            idempotency.store_response(
                tx, scope=self.scope, key=self.key, request=self.request, response=recalibration_id
            )
            return recalibration_id

        return await context.ledger.write(work)

    def _find(self, tx: Transaction) -> str | None:
        known = idempotency.lookup(tx, scope=self.scope, key=self.key, request=self.request)
        return known if known is not None and store.find(tx, known) is not None else None


async def replay(
    context: Context,
    key: str,
    asked: RecalibrationIn,
    data: Sequence[File],
    source: Sequence[File],
) -> Replay:
    """Return the key of a complete form; `asked` names its model."""
    digests = [await asyncio.to_thread(sha256_of, file.draft.path) for file in data]
    told = "\n".join([asked.model_dump_json(), *digests])
    if source:  # a form without source files keeps the fingerprint that earlier versions stored
        digests = [await asyncio.to_thread(sha256_of, file.draft.path) for file in source]
        told = "\n".join([told, "source", *digests])
    return Replay(
        scope=idempotency.scope_of("POST /v1/recalibrate", context.caller.name),
        key=key,
        request=idempotency.fingerprint(told.encode()),
    )
