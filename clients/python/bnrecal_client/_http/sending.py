"""Sending the streams of one recalibration, several batches at a time, except those stored."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from bnrecal_client._encoding.batch_source import BatchSource
from bnrecal_client._encoding.batches import EncodedBatch
from bnrecal_client._encoding.model_source import ModelContent
from bnrecal_client._encoding.samples import naming_the_sample
from bnrecal_client._http.requests import StreamName
from bnrecal_client._http.session import Session, StoredBatches
from bnrecal_client.errors import BatchError, ConflictError, InputError, ModelError
from bnrecal_client.models import ModelDescription, Progress, Recalibration, StoredBatch
from bnrecal_client.options import Options

__all__ = ["require_batchnorm", "require_same", "send_all"]

_NOUNS: Mapping[StreamName, str] = {
    "batches": "batches",
    "source-batches": "source batches",
}
_PHASES: Mapping[StreamName, str] = {
    "batches": "sending",
    "source-batches": "sending-source",
}


async def send_all(
    session: Session,
    recalibration_id: str,
    source: BatchSource,
    inputs: tuple[str, ...],
    *,
    resumed: bool,
    stream: StreamName = "batches",
) -> int:
    """Send every batch that the server does not store; return the number of batches in the stream.

    At most `source.connections` batches are in memory.

    Raises:
        InputError: the stream is empty, or a batch is invalid.
        ConflictError: the server stores a different batch under an index.
    """
    total = await source.length()
    stored = 0

    def count(change: int = 1) -> None:
        nonlocal stored
        stored += change
        session.callback(Progress(phase=_PHASES[stream], done=stored, total=total))

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


def require_batchnorm(model: ModelDescription, origin: BatchSource | None) -> None:
    """Check, before anything is sent, that a model without BatchNorm layers has source batches.

    Raises:
        ModelError: it has not.
    """
    if model.needs_source_batches and origin is None:
        raise ModelError(
            "the model has no BatchNorm layer: export it again with BatchNorm kept, or pass "
            "unlabeled samples of the domain that it was trained on as source_batches= (--source), "
            "from which the layers are inserted",
            code="model-already-folded",
        )


def require_same(opened: Recalibration, options: Options, content: ModelContent | None) -> None:
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
