"""The calls of the HTTP API, each retried as `retry.py` decides."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from itertools import count
from typing import Any, TypeVar

from bnrecal_client._concurrency import Runtime, Sleep
from bnrecal_client._encoding.batches import EncodedBatch
from bnrecal_client._encoding.model_source import ModelContent
from bnrecal_client._http import requests
from bnrecal_client._http.messages import (
    Page,
    Request,
    Response,
    TransportFailed,
    expect,
    read,
    report,
    report_html,
)
from bnrecal_client._http.requests import StreamName
from bnrecal_client._http.retry import (
    FailedTry,
    RetryPolicy,
    failure_of,
    give_up,
    pause_before_retry,
    poll_s,
)
from bnrecal_client._http.transport import Transport
from bnrecal_client.errors import (
    RecalibrationCancelled,
    RecalibrationFailed,
    TimedOut,
    error_of,
)
from bnrecal_client.models import (
    ModelDescription,
    Progress,
    Recalibration,
    ReportDetails,
    StoredBatch,
)
from bnrecal_client.options import Options
from bnrecal_client.progress import ProgressCallback, silent
from bnrecal_client.result import Outcome, Result, decode_statistics

__all__ = ["PHASES", "Session", "StoredBatches"]

PHASES: Mapping[StreamName, str] = {"batches": "sending", "source-batches": "sending-source"}
"""The phases of progress while streams are sent."""

T = TypeVar("T")
Send = Callable[[Request], Awaitable[Response]]

_log = logging.getLogger("bnrecal_client")


@dataclass(slots=True)
class _Contact:
    """Whether the server has ever responded; shared by all calls of one client."""

    server_seen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One server, its retry policy, and the callback that is notified of progress.

    Attributes:
        url: the server's address, for messages.
        transport: sends one request.
        runtime: how the calls wait.
        retry: the time limits.
        clock: returns monotonic seconds.
        callback: is called with each step.
    """

    url: str
    transport: Transport
    runtime: Runtime
    retry: RetryPolicy
    clock: Callable[[], float]
    callback: ProgressCallback = silent
    _contact: _Contact = field(default_factory=_Contact)

    def reporting_to(self, callback: ProgressCallback) -> Session:
        """Return this session with another callback."""
        return replace(self, callback=callback)

    def address_of(self, recalibration_id: str) -> str:
        """Return the address of a recalibration."""
        return f"{self.url}/v1/recalibrations/{recalibration_id}"

    async def exchange(
        self, request: Request, *, pause: Sleep | None = None, send: Send | None = None
    ) -> Response:
        """Send a request, retry it as `retry.py` decides, and return the final response.

        Args:
            request: the request.
            pause: waits between two tries; None for the runtime's `sleep`.
            send: sends the request once; None for the transport's `send`.

        Raises:
            ServerUnreachable: no response within the time of the policy.
        """
        started = self.clock()
        for tries in count(1):
            outcome = await self._try(request, send or self.transport.send)
            if isinstance(outcome, Response):
                _log.debug("%s %s: %d", request.method, request.path, outcome.status)
                return replace(outcome, tries=tries)
            elapsed = self.clock() - started
            _log.warning("%s %s failed: %s", request.method, request.path, outcome.reason)
            seconds = pause_before_retry(
                self.retry,
                outcome,
                tries=tries,
                elapsed_s=elapsed,
                server_seen=self._contact.server_seen,
            )
            if seconds is None:
                return give_up(self.url, outcome, tries=tries, elapsed_s=elapsed)
            self.callback(Progress(phase="waiting", done=tries - 1, note=outcome.reason))
            await (pause or self.runtime.sleep)(seconds)
        raise AssertionError("count() has no end")

    async def _try(self, request: Request, send: Send) -> Response | FailedTry:
        try:
            response = await send(request)
        except TransportFailed as error:
            return FailedTry(reason=str(error))
        self._contact.server_seen = True
        return failure_of(request, response) or response

    async def upload_model(self, content: ModelContent) -> ModelDescription:
        """Upload a model, unless the server already stores these bytes."""
        self.callback(Progress(phase="model", done=0, total=1))
        response = await self.exchange(requests.get_model(content.sha256))
        if response.status == HTTPStatus.NOT_FOUND:
            response = await self.exchange(requests.upload(content.body, content.sha256))
        self.callback(Progress(phase="model", done=1, total=1))
        return read(response, ModelDescription, 200, 201)

    async def describe_model(self, model_id: str) -> ModelDescription:
        """Return a model's description."""
        return read(await self.exchange(requests.get_model(model_id)), ModelDescription, 200)

    async def models(self) -> tuple[ModelDescription, ...]:
        """Return every model."""
        return await self._all_pages(requests.list_models, Page[ModelDescription])

    async def delete_model(self, model_id: str) -> None:
        """Delete a model."""
        await self._delete(requests.delete_model(model_id))

    async def recalibrations(self, search: str | None) -> tuple[Recalibration, ...]:
        """Return every recalibration, or those that contain a text, newest first."""
        listed = partial(requests.list_recalibrations, search)
        return await self._all_pages(listed, Page[Recalibration])

    async def readiness(self) -> dict[str, Any]:
        """Return whether the server can work, and the sandbox of its workers."""
        return read(await self.exchange(requests.readiness()), dict[str, Any], 200, 503)

    async def create(self, model_id: str, options: Options, *, key: str) -> Recalibration:
        """Create a recalibration."""
        response = await self.exchange(requests.create(model_id, options, key=key))
        return read(response, Recalibration, 200, 201)

    async def status(self, recalibration_id: str, *, wait_s: float = 0.0) -> Recalibration:
        """Return the state; the server waits up to `wait_s` seconds for the end first."""
        response = await self.exchange(requests.status(recalibration_id, wait_s=wait_s))
        return read(response, Recalibration, 200)

    async def put_batch(
        self,
        recalibration_id: str,
        index: int,
        batch: EncodedBatch,
        *,
        stream: StreamName = "batches",
        pause: Sleep | None = None,
    ) -> StoredBatch:
        """Store one batch of a stream; `pause` as in `exchange`."""
        request = requests.put_batch(
            recalibration_id,
            index,
            batch.body,
            batch.sha256,
            media_type=batch.media_type,
            stream=stream,
        )
        return read(await self.exchange(request, pause=pause), StoredBatch, 200, 201)

    async def received_page(
        self, recalibration_id: str, stream: StreamName, after: str | None
    ) -> Page[StoredBatch]:
        """Return one page of the stored batches of a stream, by index."""
        request = requests.received(recalibration_id, stream, after)
        return read(await self.exchange(request), Page[StoredBatch], 200)

    async def received(self, recalibration_id: str) -> tuple[StoredBatch, ...]:
        """Return all stored batches, by index."""
        return await self._all_pages(
            partial(requests.received, recalibration_id, "batches"), Page[StoredBatch]
        )

    async def start(
        self,
        recalibration_id: str,
        batches: int,
        source_batches: int = 0,
        details: ReportDetails | None = None,
    ) -> Recalibration:
        """Seal the streams and queue the run; `details` are shown in the report."""
        request = requests.start(recalibration_id, batches, source_batches, details)
        response = await self.exchange(request)
        return read(response, Recalibration, 200, 202)

    async def wait(
        self, recalibration_id: str, *, timeout_s: float | None, max_poll_s: float
    ) -> Recalibration:
        """Poll the state until the recalibration has succeeded.

        The pause between two polls is spent at the server, which responds at once when the
        recalibration ends. A server without that feature responds at once in any case; then the
        pause is spent here.

        Raises:
            TimedOut: it has not ended in time.
            RecalibrationFailed: it has ended without a result.
        """
        started = self.clock()
        pause = 0.0
        for polls in count():
            asked = self.clock()
            wait_s = min(pause, self.retry.read_timeout / 2)
            now = await self.status(recalibration_id, wait_s=wait_s)
            self.callback(now.progress or Progress(phase=now.phase or now.state, done=0))
            if now.has_ended:
                _log.info("%s: %s", now.id, now.summary)
                return _succeeded(now)
            if (rest := pause - (self.clock() - asked)) > 0:
                await self.runtime.sleep(rest)
            pause = poll_s(polls, longest_s=max_poll_s)
            if timeout_s is not None and self.clock() - started + pause > timeout_s:
                raise TimedOut(
                    f"{recalibration_id} is {now.state} after {timeout_s:g} s of waiting; it "
                    "continues on the server: wait for it again, or cancel it",
                    recalibration_id=recalibration_id,
                )
        raise AssertionError("count() has no end")

    async def fetch_report(self, recalibration_id: str) -> Outcome:
        """Return the results of a succeeded recalibration without its models."""
        return Outcome(
            recalibration_id=recalibration_id,
            report=report(await self.exchange(requests.report(recalibration_id))),
            report_html=report_html(await self.exchange(requests.report_html(recalibration_id))),
            statistics=decode_statistics(
                expect(await self.exchange(requests.statistics(recalibration_id)), 200).body
            ),
        )

    async def fetch(self, recalibration_id: str, *, unfolded: bool) -> Result:
        """Return all results of a succeeded recalibration."""
        wanted = [
            requests.report(recalibration_id),
            requests.report_html(recalibration_id),
            requests.statistics(recalibration_id),
            requests.model_file(recalibration_id, "folded"),
        ]
        if unfolded:
            wanted.append(requests.model_file(recalibration_id, "unfolded"))
        got: list[Response] = []
        for done, request in enumerate(wanted):
            self.callback(Progress(phase="fetching", done=done, total=len(wanted)))
            got.append(expect(await self.exchange(request), 200))
        self.callback(Progress(phase="fetching", done=len(wanted), total=len(wanted)))
        return Result(
            recalibration_id=recalibration_id,
            report=report(got[0]),
            report_html=report_html(got[1]),
            statistics=decode_statistics(got[2].body),
            model=got[3].body,
            unfolded=got[4].body if unfolded else None,
        )

    async def cancel(self, recalibration_id: str) -> Recalibration:
        """Cancel a recalibration."""
        response = await self.exchange(requests.cancel(recalibration_id))
        return read(response, Recalibration, 200, 202)

    async def delete(self, recalibration_id: str) -> None:
        """Delete a recalibration."""
        await self._delete(requests.delete(recalibration_id))

    async def _delete(self, request: Request) -> None:
        response = await self.exchange(request)
        if response.status == HTTPStatus.NOT_FOUND and response.tries > 1:
            return  # an earlier try deleted it, and its response was lost
        expect(response, 204)

    async def _all_pages(
        self, request: Callable[[str | None], Request], kind: type[Page[T]]
    ) -> tuple[T, ...]:
        """Follow a list's cursor to its end."""
        found: list[T] = []
        after: str | None = None
        while True:
            page = read(await self.exchange(request(after)), kind, 200)
            found.extend(page.items)
            if page.next is None:
                return tuple(found)
            after = page.next


class StoredBatches:
    """The batches of a stream that the server stores, listed page by page in step with it."""

    def __init__(self, session: Session, recalibration_id: str, stream: StreamName) -> None:
        self._session = session
        self._recalibration_id = recalibration_id
        self._stream: StreamName = stream
        self._page: list[StoredBatch] = []
        self._after: str | None = None
        self._more = True

    async def at(self, index: int) -> StoredBatch | None:
        """Return the batch stored under an index; ask for increasing indices only."""
        while True:
            while self._page and self._page[0].index < index:
                self._page.pop(0)
            if self._page:
                return self._page[0] if self._page[0].index == index else None
            if not self._more:
                return None
            page = await self._session.received_page(
                self._recalibration_id, self._stream, self._after
            )
            self._page, self._after = list(page.items), page.next
            self._more = page.next is not None


def _succeeded(now: Recalibration) -> Recalibration:
    """Return a recalibration that has succeeded; raise why another one has ended."""
    if now.state == "succeeded":
        return now
    if now.state == "cancelled":
        raise RecalibrationCancelled(f"{now.id} was cancelled", recalibration_id=now.id)
    if now.error is None:
        raise RecalibrationFailed(f"{now.id} ended as {now.state}", recalibration_id=now.id)
    raise RecalibrationFailed(
        f"{now.id} failed: {now.error.detail}", problem=now.error, recalibration_id=now.id
    ) from error_of(now.error, recalibration_id=now.id)
