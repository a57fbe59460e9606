"""What each verb of the client does, as plans: no I/O, shared by both clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TypeVar

from bnrecal_client._encoding.batches import EncodedBatch, encode
from bnrecal_client._encoding.model_source import ModelContent
from bnrecal_client._http import requests as calls
from bnrecal_client._http import responses as answers
from bnrecal_client._http.messages import Request, Response
from bnrecal_client._runtime.effects import Call, Pause, Plan
from bnrecal_client._workflows.backoff import poll_s
from bnrecal_client._workflows.retry import Link, exchange
from bnrecal_client.errors import (
    RecalibrationCancelled,
    RecalibrationFailed,
    TimedOut,
)
from bnrecal_client.images import Images
from bnrecal_client.models import ModelDescription, Progress, Recalibration, StoredBatch
from bnrecal_client.options import Options
from bnrecal_client.problems import error_of
from bnrecal_client.result import Result, decode_statistics

__all__ = [
    "all_pages",
    "cancel",
    "compute",
    "create",
    "delete",
    "delete_model",
    "failure",
    "fetch",
    "model",
    "models",
    "received",
    "send",
    "send_arrays",
    "start",
    "status",
    "upload",
    "wait",
]

T = TypeVar("T")


def compute(function: Callable[[], T]) -> Plan[T]:
    """Run something slow outside the event loop, where there is one."""
    value: T = yield Call(function)
    return value


def upload(link: Link, content: ModelContent) -> Plan[ModelDescription]:
    """Upload a model, unless the server holds these bytes already."""
    link.notify(Progress(phase="model", done=0, total=1))
    held = yield from exchange(link, calls.get_model(content.sha256))
    if held.status == HTTPStatus.NOT_FOUND:
        held = yield from exchange(link, calls.upload(content.body, content.sha256))
    link.notify(Progress(phase="model", done=1, total=1))
    return answers.model(held)


def model(link: Link, model: str) -> Plan[ModelDescription]:
    """Describe a model."""
    return answers.model((yield from exchange(link, calls.get_model(model))))


def models(link: Link) -> Plan[tuple[ModelDescription, ...]]:
    """List every model."""
    return (yield from all_pages(link, calls.list_models, answers.models))


def delete_model(link: Link, model: str) -> Plan[None]:
    """Delete a model."""
    yield from _delete(link, calls.delete_model(model))


def create(link: Link, model: str, options: Options, key: str) -> Plan[Recalibration]:
    """Create a recalibration."""
    request = calls.create(
        model=model,
        method=options.method,
        estimator=options.estimator,
        layers=options.layers,
        preprocess=options.preprocess,
        key=key,
    )
    return answers.recalibration((yield from exchange(link, request)))


def status(link: Link, recalibration: str, *, wait_s: float = 0.0) -> Plan[Recalibration]:
    """Ask for the state; with `wait_s`, the server waits so many seconds for the end first."""
    request = calls.status(recalibration, wait_s=wait_s)
    return answers.recalibration((yield from exchange(link, request)))


def send(link: Link, recalibration: str, index: int, batch: EncodedBatch) -> Plan[StoredBatch]:
    """Store one encoded batch."""
    request = calls.send(recalibration, index, batch.body, batch.sha256, batch.media_type)
    return answers.batch((yield from exchange(link, request)))


def send_arrays(
    link: Link, recalibration: str, index: int, batch: Mapping[str, object] | Images
) -> Plan[StoredBatch]:
    """Encode one batch of named arrays or images and store it."""
    names = () if isinstance(batch, Images) else tuple(batch)
    encoded = yield from compute(lambda: encode(batch, names, index=index))
    return (yield from send(link, recalibration, index, encoded))


def received(link: Link, recalibration: str) -> Plan[tuple[StoredBatch, ...]]:
    """List what has arrived."""
    return (
        yield from all_pages(
            link, lambda after: calls.received(recalibration, after), answers.batches
        )
    )


def start(link: Link, recalibration: str, batches: int) -> Plan[Recalibration]:
    """Seal the stream and queue the run."""
    response = yield from exchange(link, calls.start(recalibration, batches))
    return answers.recalibration(response)


def cancel(link: Link, recalibration: str) -> Plan[Recalibration]:
    """Stop a run."""
    return answers.recalibration((yield from exchange(link, calls.cancel(recalibration))))


def delete(link: Link, recalibration: str) -> Plan[None]:
    """Delete a recalibration."""
    yield from _delete(link, calls.delete(recalibration))


def wait(
    link: Link, recalibration: str, *, timeout_s: float | None, poll_longest_s: float
) -> Plan[Recalibration]:
    """Ask for the state until it has ended.

    The pauses between two questions are spent at the server, which answers at once when the end
    comes. One that does not know how to wait answers at once in any case: then we pause.

    Raises:
        TimedOut: it has not ended in time.
        RecalibrationFailed: it has ended without a result.
    """
    started = link.clock()
    asked = 0
    pause = 0.0
    while True:
        began = link.clock()
        now = yield from status(link, recalibration, wait_s=min(pause, link.silence_s / 2))
        link.notify(now.progress or Progress(phase=now.phase or now.state, done=0))
        if now.has_ended:
            return _succeeded(now)
        if (left := pause - (link.clock() - began)) > 0:
            yield Pause(left)
        pause = poll_s(asked, longest_s=poll_longest_s)
        if timeout_s is not None and link.clock() - started + pause > timeout_s:
            raise TimedOut(
                f"{recalibration} is {now.state} after {timeout_s:g} s of waiting; it goes on at "
                "the server: attach to it again, or cancel it",
                recalibration=recalibration,
            )
        asked += 1


def fetch(link: Link, recalibration: str, *, unfolded: bool) -> Plan[Result]:
    """Fetch everything that a succeeded recalibration has made."""
    wanted = [
        calls.report(recalibration),
        calls.report_html(recalibration),
        calls.statistics(recalibration),
        calls.model_file(recalibration, "folded"),
    ]
    if unfolded:
        wanted.append(calls.model_file(recalibration, "unfolded"))
    got: list[Response] = []
    for done, request in enumerate(wanted):
        link.notify(Progress(phase="fetching", done=done, total=len(wanted)))
        got.append(answers.expect((yield from exchange(link, request)), 200))
    link.notify(Progress(phase="fetching", done=len(wanted), total=len(wanted)))
    return Result(
        recalibration=recalibration,
        report=answers.report(got[0]),
        report_html=answers.page(got[1]),
        statistics=decode_statistics(got[2].body),
        model=got[3].body,
        unfolded=got[4].body if unfolded else None,
    )


def all_pages(
    link: Link,
    ask: Callable[[str | None], Request],
    read: Callable[[Response], answers.Page[T]],
) -> Plan[tuple[T, ...]]:
    """Follow a list's cursor to its end."""
    found: list[T] = []
    after: str | None = None
    while True:
        page = read((yield from exchange(link, ask(after))))
        found.extend(page.items)
        if page.next is None:
            return tuple(found)
        after = page.next


def failure(now: Recalibration) -> RecalibrationFailed:
    """Build the error for a recalibration that ended without a result, caused by its reason."""
    if now.state == "cancelled":
        return RecalibrationCancelled(f"{now.id} was cancelled", recalibration=now.id)
    if now.error is None:
        return RecalibrationFailed(f"{now.id} ended as {now.state}", recalibration=now.id)
    failed = RecalibrationFailed(
        f"{now.id} failed: {now.error.detail}", problem=now.error, recalibration=now.id
    )
    failed.__cause__ = error_of(now.error, recalibration=now.id)
    return failed


def _delete(link: Link, request: Request) -> Plan[None]:
    response = yield from exchange(link, request)
    if response.status == HTTPStatus.NOT_FOUND and response.tries > 1:
        return  # an earlier try did it, and its answer was lost
    answers.expect(response, 204)


def _succeeded(now: Recalibration) -> Recalibration:
    if now.state == "succeeded":
        return now
    raise failure(now)
