"""What one request does: the same steps that a client would take one by one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.batches import operations as batches
from service.batches.operations import Upload
from service.context import Context
from service.errors import RequestInvalidError, ServiceError, ShuttingDownError
from service.models import operations as models
from service.oneshot.form import File, FormReader
from service.oneshot.replays import replay
from service.recalibrations import operations
from service.recalibrations.dispatch import Dispatcher
from service.recalibrations.schemas import RecalibrationIn
from service.recalibrations.waiting import until_ended_or_gone
from service.repositories import recalibrations as store
from service.repositories import usage as room
from service.repositories.lifecycle import ENDED, State
from service.repositories.records import Recalibration
from service.web import media_types as media
from service.web.request_body import BLOCK_BYTES


async def receive(
    context: Context, content_type: str, body: AsyncIterator[bytearray], announced: int
) -> FormReader:
    """Take a form in; whatever fails leaves no file.

    Raises:
        MediaTypeError, RequestInvalidError, TooLargeError: it is no such form.
        CapacityError: it could not be stored.
    """
    # At once what would be refused after hours of sending.
    await context.ledger.read(lambda tx: room.require(tx, context.settings, announced))
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
    """Upload, open, send and start; whatever is refused leaves no recalibration.

    Args:
        context: where.
        dispatcher: runs it.
        form: the whole form.
        key: the client's Idempotency-Key; the same form again gives the same recalibration.

    Returns:
        The recalibration's id.

    Raises:
        RequestInvalidError, OptionError: the options make no sense.
        IdempotencyKeyReusedError: the key came with another form.
        RefusedError, BatchError: the model or a file is at fault.
        CapacityError, QuotaError: a limit was reached.
    """
    asked = read_options(bytes(form.options))
    formats = [media.part_format(file.media_type, file.name) for file in form.data]
    model, _ = await models.upload(context, _blocks(form.finish().draft.path), digest=None)
    asked = asked.model_copy(update={"model": model.id})
    known = None if key is None else await replay(context, key, asked, form.data)
    if known is not None and (again := await known.recall(context)) is not None:
        return await _resume(context, dispatcher, again, len(form.data))
    created = await operations.create(context, asked, key=None)
    try:
        await _send(context, created.id, form.data, formats)
        name = created.id if known is None else await known.settle(context, created.id)
        if name != created.id:
            await _forget(context, dispatcher, created.id)
        return await _resume(context, dispatcher, name, len(form.data))
    except BaseException:
        await asyncio.shield(_forget(context, dispatcher, created.id))
        raise


async def _send(context: Context, name: str, data: Sequence[File], formats: Sequence[str]) -> None:
    """Store the files of a form as batches; each is gone from the form then."""
    for index, (file, kind) in enumerate(zip(data, formats, strict=True)):
        upload = Upload(
            recalibration=name,
            index=index,
            format=kind,
            body=_blocks(file.draft.path),
            digest=None,
        )
        await batches.put(context, upload)
        await asyncio.to_thread(file.draft.discard)


async def _resume(context: Context, dispatcher: Dispatcher, name: str, total: int) -> str:
    """Start it, unless that was done before."""
    found = await context.ledger.read(lambda tx: store.get(tx, name))
    if found.state is State.OPEN:
        await operations.start(context, dispatcher, name, total)
    return name


async def ended(
    context: Context,
    dispatcher: Dispatcher,
    name: str,
    gone: Callable[[], Awaitable[None]],
    *,
    keep: bool,
) -> Recalibration | None:
    """Wait until a recalibration has ended; None when the client has gone, which cancels it.

    Args:
        context: where.
        dispatcher: kills the worker of a cancelled run.
        name: the recalibration.
        gone: returns when the client has gone.
        keep: whether it goes on all the same: the client has a key to come back with.

    Raises:
        ShuttingDownError: the server goes down; the run goes on with its next start.
    """
    found = await until_ended_or_gone(context, name, gone)
    if found is None:
        if not keep:
            with contextlib.suppress(ServiceError):  # it has ended in this moment
                await operations.cancel(context, dispatcher, name)
        return None
    if found.state not in ENDED:
        raise ShuttingDownError("the server is going down; the run goes on when it is back")
    return found


def read_options(content: bytes) -> RecalibrationIn:
    """Read the part `options`: what opens a recalibration, without its model.

    Raises:
        RequestInvalidError: it is no such JSON object.
    """
    try:
        said: Any = json.loads(content or b"{}")
        if not isinstance(said, dict) or "model" in said:
            raise RequestInvalidError("options are a JSON object without the member `model`")
        return RecalibrationIn.model_validate(said | {"model": ""})
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise RequestInvalidError(f"options: {'; '.join(faults)}", faults=faults) from error
    except (ValueError, RecursionError) as error:
        raise RequestInvalidError("options are no JSON") from error


async def _forget(context: Context, dispatcher: Dispatcher, name: str) -> None:
    with contextlib.suppress(ServiceError):  # the sweep removes what is never started
        await operations.delete(context, dispatcher, name)


async def _blocks(path: Path) -> AsyncIterator[bytearray]:
    """Yield a file as a body would come: at least one block."""
    with await asyncio.to_thread(path.open, "rb") as file:
        block = await asyncio.to_thread(file.read, BLOCK_BYTES)
        yield bytearray(block)
        while block := await asyncio.to_thread(file.read, BLOCK_BYTES):
            yield bytearray(block)
