"""What can be done with recalibrations."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from bn_ops.core.layers import select_layers
from bn_ops.errors import StreamEmptyError
from bn_ops.preprocess import check_preprocess, preprocess_from_json
from bn_ops.preprocess.images import require_pillow
from service import clock
from service.callers import Caller
from service.context import Context
from service.errors import (
    BatchesMissingError,
    BatchesUnexpectedError,
    RecalibrationNotOpenError,
    ServiceError,
)
from service.recalibrations import admission, retention
from service.recalibrations import events as changes
from service.recalibrations.dispatch import Dispatcher
from service.recalibrations.options import PreprocessForm
from service.recalibrations.schemas import RecalibrationIn, RecalibrationOut
from service.repositories import batches, idempotency, models, tokens
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED, Event, State
from service.repositories.models import StoredModel
from service.repositories.records import Recalibration
from service.storage.ledger.protocol import Transaction

MISSING_SHOWN = 100
_CREATE = "POST /v1/recalibrations"


async def create(context: Context, asked: RecalibrationIn, *, key: str | None) -> RecalibrationOut:
    """Open a recalibration.

    Args:
        context: where.
        asked: what.
        key: the client's Idempotency-Key.

    Raises:
        NotFoundError: there is no such model.
        OptionError, LayerPatternError: the options make no sense for this model.
        IdempotencyKeyReusedError: the key came with another request.
        QuotaError: the token has too many that have not ended.
    """
    name = clock.new_recalibration_id()
    request = idempotency.fingerprint(asked.model_dump_json().encode())
    scope = idempotency.scope_of(_CREATE, context.caller.name)

    def answered(tx: Transaction) -> str | None:
        if key is None:
            return None
        return idempotency.recall(tx, scope=scope, key=key, request=request)

    def examine(tx: Transaction) -> None:
        if answered(tx) is None:
            _check_options(models.get(tx, asked.model, owner=context.caller.scope), asked)

    def work(tx: Transaction) -> RecalibrationOut:
        if (known := answered(tx)) is not None:
            return RecalibrationOut.model_validate_json(known)
        created = RecalibrationOut.of(_insert(tx, name, asked, context.caller))
        if key is not None:
            response = created.model_dump_json()
            idempotency.remember(tx, scope=scope, key=key, request=request, response=response)
        return created

    # Matching globs takes a while: not on the one thread that writes.
    await context.ledger.read(examine)
    return await context.ledger.write(work)


async def start(context: Context, dispatcher: Dispatcher, name: str, total: int) -> Recalibration:
    """Seal the stream, and queue the run where there is memory for it.

    Harmless when repeated with the same count.

    Raises:
        NotFoundError: there is no such recalibration.
        StreamEmptyError: `total` is 0.
        BatchesMissingError, BatchesUnexpectedError: the stored indices are not 0 … total - 1.
        RecalibrationNotOpenError: it was started with another count, or has ended.
    """

    def examine(tx: Transaction) -> None:
        found = store.get(tx, name)
        if found.state is State.OPEN:
            _check_stream(tx, found, total)

    def work(tx: Transaction) -> Recalibration:
        found = store.get(tx, name)
        if found.state is not State.OPEN:
            return _already_started(found, total)
        _check_stream(tx, found, total)
        store.seal(tx, name, total)
        changes.advance(tx, name, Event.START)
        admission.admit(tx, context.settings)
        return store.get(tx, name)

    # Naming what is missing reads the whole stream: not on the one thread that writes.
    await context.ledger.read(examine)
    found = await context.ledger.write(work)
    context.signals.notify(name)
    dispatcher.wake()
    return found


async def cancel(context: Context, dispatcher: Dispatcher, name: str) -> Recalibration:
    """Cancel; the ledger knows before the worker is killed. Harmless when repeated.

    Raises:
        NotFoundError: there is no such recalibration.
        TransitionError: it has ended otherwise.
    """

    def work(tx: Transaction) -> Recalibration:
        found = store.get(tx, name)
        if found.state is State.CANCELLED:
            return found
        return changes.advance(tx, name, Event.CANCEL)

    found = await context.ledger.write(work)
    context.signals.notify(name)
    await dispatcher.kill(name)
    dispatcher.wake()  # what it had reserved is free
    with contextlib.suppress(ServiceError):  # the next sweep removes what stays
        await retention.remove_data(context, name)
    return found


async def delete(context: Context, dispatcher: Dispatcher, name: str) -> None:
    """Delete a recalibration with all its data, in whatever state it is.

    Raises:
        NotFoundError: there is no such recalibration.
    """
    forgotten = await context.ledger.write(lambda tx: retention.forget(tx, name))
    context.signals.notify(name)
    await dispatcher.kill(name)
    if not forgotten:
        await retention.forget_large(context, name)
        context.signals.notify(name)
    dispatcher.wake()  # what it had reserved is free
    await asyncio.to_thread(context.blobs.remove, store.folder(name))


def _insert(tx: Transaction, name: str, asked: RecalibrationIn, caller: Caller) -> Recalibration:
    model = models.get(tx, asked.model, owner=caller.scope)
    tokens.require_open(tx, caller.name)
    options: dict[str, Any] = asked.model_dump(include={"method", "estimator", "layers"})
    options["preprocess"] = _preprocess(model, asked.preprocess)
    options["memory_bytes"] = asked.memory_bytes
    found = store.insert(
        tx,
        name=name,
        owner=caller.name,
        model=model.id,
        inputs=json.dumps(model.description["inputs"]),
        options=json.dumps(options),
        keep_data=asked.keep_data,
    )
    return changes.created(tx, found)


def _check_options(model: StoredModel, asked: RecalibrationIn) -> None:
    """Refuse now what the worker would refuse after hours of streaming."""
    layers = [layer["name"] for layer in model.description["layers"] if layer["reason"] is None]
    select_layers(layers, asked.layers)


def _preprocess(model: StoredModel, form: PreprocessForm | None) -> dict[str, Any] | None:
    """Check it against the model; return its JSON form with every member written out."""
    if form is None:
        return None
    preprocess = preprocess_from_json(form.model_dump(exclude_unset=True))
    check_preprocess(preprocess, model.inputs())
    require_pillow()
    return preprocess.to_json()


def _check_stream(tx: Transaction, found: Recalibration, total: int) -> None:
    if total == 0:
        raise StreamEmptyError("the stream has no batch; statistics of nothing are never made up")
    name = found.id
    # So many different indices, none beyond the last: there is no gap to look for.
    if found.received == total == batches.next_index(tx, name):
        return
    missing = batches.missing(tx, name, total, limit=MISSING_SHOWN)
    if missing:
        raise BatchesMissingError(
            f"{len(missing)} or more of {total} batches are missing, the first is {missing[0]}"
            if len(missing) == MISSING_SHOWN
            else f"{len(missing)} of {total} batches are missing: {missing}",
            missing=missing,
        )
    surplus, first = batches.surplus(tx, name, total)
    if surplus:
        raise BatchesUnexpectedError(
            f"{surplus} batches are stored at or beyond index {total}, the first is {first}",
            surplus=surplus,
            first=first,
        )


def _already_started(found: Recalibration, total: int) -> Recalibration:
    if found.total != total or found.state in ENDED - {State.SUCCEEDED}:
        raise RecalibrationNotOpenError(
            f"the recalibration is {found.state}, its stream has {found.total} batches",
            state=str(found.state),
        )
    return found
