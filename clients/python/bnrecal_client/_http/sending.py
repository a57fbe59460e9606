"""Submitting a recalibration: its model, its options and its streams, except what is stored."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bnrecal_client._concurrency import Runtime
from bnrecal_client._encoding.batch_source import Batches, BatchSource, Select
from bnrecal_client._encoding.batches import EncodedBatch
from bnrecal_client._encoding.call_arguments import Call, CallArguments
from bnrecal_client._encoding.model_source import (
    AnyModel,
    ModelContent,
    export,
    is_module,
    read_model,
)
from bnrecal_client._encoding.samples import (
    OnBadSample,
    SampleFilter,
    check_on_bad_sample,
    naming_the_sample,
    of_the_source,
)
from bnrecal_client._http.importing import (
    ObjectUrls,
    complete,
    import_objects,
    require_none,
    urls_of,
)
from bnrecal_client._http.requests import StreamName
from bnrecal_client._http.session import PHASES, Session, StoredBatches
from bnrecal_client.errors import (
    BatchError,
    ConflictError,
    InputError,
    ModelError,
    OptionError,
    with_recalibration,
)
from bnrecal_client.models import (
    ModelDescription,
    Progress,
    Recalibration,
    ReportDetails,
    SkippedSample,
    StoredBatch,
)
from bnrecal_client.options import Options

__all__ = ["Streams", "resumable", "submit"]

_log = logging.getLogger("bnrecal_client")

_NOUNS: Mapping[StreamName, str] = {
    "batches": "batches",
    "source-batches": "source batches",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """The streams of one recalibration, and what leaves bad samples out of them.

    Attributes:
        target: batches of the new domain, or URLs of objects that the server reads.
        source: batches of the source domain; None for a model with BatchNorm layers.
        bad: for the target stream; None to keep every sample.
        bad_source: for the source stream.
    """

    target: BatchSource | ObjectUrls
    source: BatchSource | ObjectUrls | None
    bad: SampleFilter | None
    bad_source: SampleFilter | None

    @classmethod
    def of(
        cls,
        batches: Batches,
        source_batches: Batches | None,
        runtime: Runtime,
        *,
        select: Select | None,
        connections: int | None,
        on_bad_sample: OnBadSample,
        call: Call | None,
        model: AnyModel | None,
        keep_labels: int = 0,
    ) -> Streams:
        """Return the streams of a call.

        Raises:
            OptionError: an argument is invalid.
        """
        check_on_bad_sample(on_bad_sample)
        target, source = urls_of(batches), urls_of(source_batches)
        if target is not None:
            require_none(
                ("select=", select is not None),
                ("call=", call is not None),
                ("connections=", connections is not None),
                ('on_bad_sample="skip"', on_bad_sample == "skip"),
                ('evaluate="batches"', bool(keep_labels)),
            )
        skips = on_bad_sample == "skip"
        bad, bad_source = (SampleFilter(), SampleFilter()) if skips else (None, None)
        open_stream = partial(
            BatchSource,
            select=select,
            runtime=runtime,
            connections=connections,
            arguments=None if call is None else CallArguments(model, call).of,
        )
        return cls(
            target=target or open_stream(batches, bad=bad, keep_labels=keep_labels),
            source=source
            if source is not None or source_batches is None
            else open_stream(source_batches, bad=bad_source),
            bad=bad,
            bad_source=bad_source,
        )

    @property
    def skipped(self) -> tuple[SkippedSample, ...]:
        """The samples that were left out of both."""
        if self.bad is None or self.bad_source is None:
            return ()
        return (*self.bad.skipped, *of_the_source(self.bad_source.skipped))


async def submit(
    session: Session,
    model: AnyModel | None,
    options: Options,
    streams: Streams,
    *,
    resume: str | None,
    details: Callable[[], ReportDetails] | None,
) -> tuple[Recalibration, AnyModel | None]:
    """Upload a model, send the streams and start the run.

    Returns:
        The recalibration, and the model as it was uploaded.

    Raises:
        BnrecalError: as `Client.recalibrate`; once there is a recalibration, it has its id.
    """
    if model is None and resume is None:
        raise OptionError("a model is required; None is valid only with resume=")
    if resume is not None and (options.name or options.tags):
        raise OptionError("name= and tags= are set when a recalibration is created: leave them out")
    run = session.runtime.run
    if is_module(model):
        model = await run(partial(export, model, await streams.target.peek()))
    content = None if model is None else await run(partial(read_model, model))
    if content is not None and resume is None:
        # Sends GET /v1/models/{id}, then POST /v1/models if the server lacks it
        description = await session.upload_model(content)
        _require_batchnorm(description, streams.source)
        # Sends POST /v1/recalibrations
        opened = await session.create(description.id, options, key=uuid.uuid4().hex)
    else:
        # Sends GET /v1/recalibrations/{id} and GET /v1/models/{id}
        opened = await session.status(str(resume))
        _require_same(opened, options, content)
        description = await session.describe_model(opened.model)
    with resumable(opened.id):
        if opened.state == "open":
            inputs = tuple(tensor.name for tensor in description.inputs)
            send = partial(_send_all, session, opened.id, resumed=resume is not None)
            # Sends PUT /v1/recalibrations/{id}/source-batches/{index}, several at a time, or
            # POST …/source-batches:import
            first = (
                0
                if streams.source is None
                else await send(streams.source, inputs, stream="source-batches")
            )
            # Sends PUT /v1/recalibrations/{id}/batches/{index}, several at a time
            sent = await send(streams.target, inputs)
            # Sends POST /v1/recalibrations/{id}/start
            known = _details(model, streams) if details is None else details()
            opened = await session.start(opened.id, sent, first, known)
            _log.info("%s started with %d batches", opened.id, sent)
    return opened, model


def _details(model: AnyModel | None, streams: Streams) -> ReportDetails:
    """Return the default details of the report."""
    name = Path(model).name if isinstance(model, str | os.PathLike) else None
    return ReportDetails(model_name=name, skipped_samples=streams.skipped)


@contextmanager
def resumable(recalibration_id: str) -> Iterator[None]:
    """Name the recalibration, which can be resumed, in every exception that ends the block."""
    try:
        yield
    except BaseException as error:
        named = with_recalibration(error, recalibration_id)
        if named is error:
            raise
        raise named from error


async def _send_all(
    session: Session,
    recalibration_id: str,
    source: BatchSource | ObjectUrls,
    inputs: tuple[str, ...],
    *,
    resumed: bool,
    stream: StreamName = "batches",
) -> int:
    """Send every batch that the server does not store; return the number of batches in the stream.

    At most `source.connections` batches are in memory.

    Raises:
        InputError: the stream is empty, or a batch is invalid.
        ImportFailed: the server could not read an object.
        ConflictError: the server stores a different batch under an index.
    """
    if isinstance(source, ObjectUrls):
        return complete(await import_objects(session, recalibration_id, source, stream=stream))
    total = await source.length()
    stored = 0

    def count(change: int = 1) -> None:
        nonlocal stored
        stored += change
        session.callback(Progress(phase=PHASES[stream], done=stored, total=total))

    async def upload(index: int, batch: EncodedBatch, first: int) -> None:
        try:
            await uploading.put_batch(
                recalibration_id, index, batch, stream=stream, pause=uploads.pause
            )
        except BatchError as error:
            raise naming_the_sample(error, batch, first=first) from error

    known = StoredBatches(session, recalibration_id, stream) if resumed else None
    index, samples = 0, 0
    count(0)
    async with session.runtime.uploads(source.connections) as uploads:
        uploading = session.reporting_to(uploads.in_caller(session.callback))
        while await uploads.wait_for_slot():
            if (batch := await source.next(inputs, index)) is None:
                break
            held = None if known is None else await known.at(index)
            if held is None:
                uploads.begin(index, partial(upload, index, batch, samples), count)
            else:
                _require_equal(held, batch, recalibration_id, stream)
                count()
            index += 1
            samples += batch.samples
    if index == 0:
        raise InputError(f"the stream of {_NOUNS[stream]} is empty", code="stream-empty")
    return index


def _require_equal(
    stored: StoredBatch, batch: EncodedBatch, recalibration_id: str, stream: StreamName
) -> None:
    if stored.sha256 != batch.sha256:
        noun = "batch" if stream == "batches" else "source batch"
        raise ConflictError(
            f"{noun} {stored.index} differs from the one stored for {recalibration_id}: resume "
            "with the same data in the same order and batch size, or start a new recalibration",
            code="batch-conflict",
            recalibration_id=recalibration_id,
        )


def _require_batchnorm(model: ModelDescription, origin: BatchSource | ObjectUrls | None) -> None:
    """Check, before anything is sent, that a model without BatchNorm layers has source batches.

    Raises:
        ModelError: there are no source batches.
    """
    if model.needs_source_batches and origin is None:
        raise ModelError(
            "the model has no BatchNorm layer: export it again with BatchNorm kept, or pass "
            "unlabeled samples of the domain that it was trained on as source_batches= (--source), "
            "from which the layers are inserted",
            code="model-already-folded",
        )


def _require_same(opened: Recalibration, options: Options, content: ModelContent | None) -> None:
    """Check that a resumed recalibration has the caller's model and options.

    Raises:
        ConflictError: it has not; continuing would mix two runs.
    """
    differ = options.differences(opened.options)
    if content is not None and content.sha256 != opened.model:
        differ.insert(0, "model")
    if differ:
        raise ConflictError(
            f"{opened.id} was created with a different {', '.join(differ)}: resume it with the "
            "original model and options, or start a new recalibration",
            recalibration_id=opened.id,
        )
