"""Operations on recalibrations."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from bn_ops.core.layers import select_layers
from bn_ops.core.options import check_choice
from bn_ops.errors import (
    ModelAlreadyFoldedError,
    ModelWithoutBatchNormError,
    OptionError,
    StreamEmptyError,
)
from bn_ops.preprocess import check_preprocess, preprocess_from_json
from bn_ops.preprocess.images import require_pillow
from service import clock
from service.context import Caller, Context
from service.errors import (
    BatchesMissingError,
    BatchesUnexpectedError,
    RecalibrationNotOpenError,
    ServiceError,
)
from service.recalibrations import events, retention
from service.recalibrations.dispatch import Dispatcher, admit
from service.recalibrations.options import PreprocessForm
from service.recalibrations.schemas import RecalibrationIn, RecalibrationOut, ReportDetailsIn
from service.repositories import batches, idempotency, models, tokens
from service.repositories import recalibrations as store
from service.repositories.lifecycle import ENDED, Event, State
from service.repositories.records import Recalibration, StoredModel, Stream
from service.storage.ledger.protocol import Transaction

MAX_MISSING_SHOWN = 100
_CREATE = "POST /v1/recalibrations"


async def create(context: Context, asked: RecalibrationIn, *, key: str | None) -> RecalibrationOut:
    """Create a recalibration.

    Args:
        context: context of the request.
        asked: the request.
        key: the client's Idempotency-Key.

    Raises:
        NotFoundError: there is no such model.
        OptionError, LayerPatternError: the options are invalid for this model.
        IdempotencyKeyReusedError: the key was used with another request.
        QuotaError: the token has too many recalibrations that have not ended.
    """
    recalibration_id = clock.new_recalibration_id()
    request = idempotency.fingerprint(asked.model_dump_json().encode())
    scope = idempotency.scope_of(_CREATE, context.caller.name)

    def stored(tx: Transaction) -> str | None:
        if key is None:
            return None
        return idempotency.lookup(tx, scope=scope, key=key, request=request)

    def examine(tx: Transaction) -> None:
        if stored(tx) is None:
            _check_options(models.get(tx, asked.model, owner=context.caller.scope), asked)

    def work(tx: Transaction) -> RecalibrationOut:
        if (known := stored(tx)) is not None:
            return RecalibrationOut.model_validate_json(known)
        created = RecalibrationOut.of(_insert(tx, recalibration_id, asked, context.caller))
        if key is not None:
            response = created.model_dump_json()
            idempotency.store_response(tx, scope=scope, key=key, request=request, response=response)
        return created

    # Matching globs can take long, so it is not done on the only thread that writes.
    await context.ledger.read(examine)
    return await context.ledger.write(work)


async def start(
    context: Context,
    dispatcher: Dispatcher,
    recalibration_id: str,
    total: int,
    *,
    source_total: int = 0,
    report: ReportDetailsIn | None = None,
) -> Recalibration:
    """Seal both streams, and queue the run if its memory is free.

    Repeating it with the same counts has no effect.

    Args:
        context: context of the request.
        dispatcher: runs the recalibration.
        recalibration_id: the recalibration.
        total: number of batches.
        source_total: number of source batches.
        report: what the report names.

    Raises:
        NotFoundError: there is no such recalibration.
        StreamEmptyError: `total` is 0.
        ModelWithoutBatchNormError: the model needs source batches and `source_total` is 0.
        BatchesMissingError, BatchesUnexpectedError: the stored indices of a stream are not 0 … its
            count - 1.
        RecalibrationNotOpenError: it was started with other counts, or has ended.
    """

    def examine(tx: Transaction) -> None:
        found = store.get(tx, recalibration_id)
        if found.state is State.OPEN:
            _check_streams(tx, found, total, source_total)

    def work(tx: Transaction) -> Recalibration:
        found = store.get(tx, recalibration_id)
        if found.state is not State.OPEN:
            return _already_started(found, total, source_total)
        _check_streams(tx, found, total, source_total)
        store.seal(
            tx,
            recalibration_id,
            total=total,
            source_total=source_total,
            report=None if report is None else report.model_dump(mode="json", exclude_none=True),
            traceparent=traceparent,
        )
        events.advance(tx, recalibration_id, Event.START)
        admit(tx, context.settings)
        return store.get(tx, recalibration_id)

    traceparent = context.telemetry.traceparent()
    # Finding gaps reads the whole stream, so it is not done on the only thread that writes.
    await context.ledger.read(examine)
    found = await context.ledger.write(work)
    context.signals.notify(recalibration_id)
    dispatcher.wake()
    return found


async def cancel(context: Context, dispatcher: Dispatcher, recalibration_id: str) -> Recalibration:
    """Cancel a recalibration; the ledger is changed before the worker is killed.

    Repeating it has no effect.

    Raises:
        NotFoundError: there is no such recalibration.
        TransitionError: it has succeeded or failed.
    """

    def work(tx: Transaction) -> Recalibration:
        found = store.get(tx, recalibration_id)
        if found.state is State.CANCELLED:
            return found
        return events.advance(tx, recalibration_id, Event.CANCEL)

    found = await context.ledger.write(work)
    context.signals.notify(recalibration_id)
    await dispatcher.kill(recalibration_id)
    dispatcher.wake()  # its reserved memory is free
    with contextlib.suppress(ServiceError):  # the next cleanup removes what remains
        await retention.remove_data(context, recalibration_id)
    return found


async def delete(context: Context, dispatcher: Dispatcher, recalibration_id: str) -> None:
    """Delete a recalibration with all its data, in any state.

    Raises:
        NotFoundError: there is no such recalibration.
    """
    deleted = await context.ledger.write(
        lambda tx: retention.delete(tx, context.settings, recalibration_id)
    )
    context.signals.notify(recalibration_id)
    await dispatcher.kill(recalibration_id)
    if not deleted:
        await retention.delete_large(context, recalibration_id)
        context.signals.notify(recalibration_id)
    dispatcher.wake()  # its reserved memory is free
    await asyncio.to_thread(context.blobs.remove, store.folder(recalibration_id))


def _insert(
    tx: Transaction, recalibration_id: str, asked: RecalibrationIn, caller: Caller
) -> Recalibration:
    model = models.get(tx, asked.model, owner=caller.scope)
    tokens.check_open(tx, caller.name)
    options: dict[str, Any] = asked.model_dump(include={"method", "estimator", "layers"})
    options["preprocess"] = _preprocess(model, asked.preprocess)
    options["memory_bytes"] = asked.memory_bytes
    options["allow_mismatch"] = asked.allow_mismatch
    options["opset"], options["target"] = asked.opset, asked.target
    options["max_samples"], options["seed"] = asked.max_samples, asked.seed
    found = store.insert(
        tx,
        recalibration_id=recalibration_id,
        owner=caller.name,
        name=asked.name,
        tags=asked.tags,
        model=model.id,
        inputs=json.dumps(model.description["inputs"]),
        options=json.dumps(options),
        keep_data=asked.keep_data,
    )
    return events.created(tx, found)


def _check_options(model: StoredModel, asked: RecalibrationIn) -> None:
    """Reject now what the worker would reject after hours of streaming."""
    if asked.method == "batch" and asked.estimator.name == "auto":
        raise OptionError('the estimator "auto" needs the method "exact"')
    check_choice(asked.max_samples, asked.seed, method=asked.method)
    if model.without_batchnorm() is not None:
        return  # its layers get names when they are inserted, during the run
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


def _check_streams(tx: Transaction, found: Recalibration, total: int, source_total: int) -> None:
    if total == 0:
        raise StreamEmptyError("the stream has no batches")
    _check_stream(tx, found, Stream.TARGET, total)
    _check_stream(tx, found, Stream.SOURCE, source_total)
    if source_total == 0:
        _require_batchnorm(tx, found)


def _require_batchnorm(tx: Transaction, found: Recalibration) -> None:
    """Check that the model can be recalibrated without source batches."""
    model = models.find(tx, found.model)
    code = None if model is None else model.without_batchnorm()
    if code is None:
        return
    already_folded = code == ModelAlreadyFoldedError.code
    kind = ModelAlreadyFoldedError if already_folded else ModelWithoutBatchNormError
    raise kind(
        "the model has no BatchNormalization node, so its layers are inserted with samples of the "
        "domain that it was trained on: send them as "
        f"/v1/recalibrations/{found.id}/source-batches/0, 1, … and start with their number as "
        "source_batches"
    )


def _check_stream(tx: Transaction, found: Recalibration, stream: Stream, total: int) -> None:
    received = found.received if stream is Stream.TARGET else found.source_received
    # This many different indices, none beyond the last: there are no gaps.
    if received == total == batches.next_index(tx, found.id, stream):
        return
    what = "batches" if stream is Stream.TARGET else "source batches"
    missing = batches.missing(tx, found.id, stream, total, limit=MAX_MISSING_SHOWN)
    if missing:
        raise BatchesMissingError(
            f"{len(missing)} or more of {total} {what} are missing, the first is {missing[0]}"
            if len(missing) == MAX_MISSING_SHOWN
            else f"{len(missing)} of {total} {what} are missing: {missing}",
            missing=missing,
        )
    unexpected, first = batches.unexpected(tx, found.id, stream, total)
    if unexpected:
        raise BatchesUnexpectedError(
            f"{unexpected} {what} are stored at or beyond index {total}, the first is {first}",
            unexpected=unexpected,
            first=first,
        )


def _already_started(found: Recalibration, total: int, source_total: int) -> Recalibration:
    counts = (found.total, found.source_total or 0)
    if counts != (total, source_total) or found.state in ENDED - {State.SUCCEEDED}:
        raise RecalibrationNotOpenError(
            f"the recalibration is {found.state}, its stream has {found.total} batches"
            + (f" and {found.source_total} source batches" if found.source_total else ""),
            state=str(found.state),
        )
    return found
