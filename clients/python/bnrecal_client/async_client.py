"""The client as coroutines: the one implementation, which `client.py` wraps for synchronous code.

`AsyncClient.recalibrate` shows the HTTP calls of a run in order; each call is a method of
`_http.session.Session`, which retries it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio

from bnrecal_client._concurrency import EventLoop, Sleep
from bnrecal_client._encoding.batch_source import Batches, BatchSource, Select
from bnrecal_client._encoding.batches import encode
from bnrecal_client._encoding.model_source import AnyModel, export, is_module, read_model
from bnrecal_client._encoding.samples import (
    OnBadSample,
    SampleFilter,
    check_on_bad_sample,
    of_the_source,
)
from bnrecal_client._http.sending import require_batchnorm, require_same, send_all
from bnrecal_client._http.session import Session
from bnrecal_client._http.transport import AsyncTransport, Server
from bnrecal_client._library import LabeledSamples, Metric
from bnrecal_client.errors import OptionError, VerdictError, with_recalibration
from bnrecal_client.images import Images
from bnrecal_client.models import (
    ModelDescription,
    Recalibration,
    ReportDetails,
    SkippedSample,
    StoredBatch,
)
from bnrecal_client.options import OnVerdict, Options, Target, check_on_verdict
from bnrecal_client.progress import ProgressOption, progress_display
from bnrecal_client.result import Outcome, Result
from bnrecal_client.retry_policy import RetryPolicy

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncClient", "AsyncHandle"]


class AsyncClient:
    """A bnrecal server, from asyncio or trio. Use it as a context manager, or call `close`.

    The methods are those of `Client`. A synchronous iterable of batches is read in a worker
    thread, so a slow loader does not block the event loop.

    Args:
        url: as `Client`.
        token: as `Client`.
        retry: as `Client`.
        transport: as `Client`.
        sleep: as `Client`.
        clock: as `Client`.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = anyio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        policy = retry or RetryPolicy()
        server = Server.of(url, token, policy)
        self._session = Session(
            url=server.url,
            transport=AsyncTransport(server, transport),
            runtime=EventLoop(sleep),
            retry=policy,
            clock=clock,
        )

    async def recalibrate(
        self,
        model: AnyModel | None,
        batches: Batches,
        *,
        method: str = "exact",
        estimator: str | Mapping[str, object] | None = None,
        layers: Sequence[str] | None = None,
        preprocess: Mapping[str, object] | None = None,
        allow_mismatch: bool = False,
        opset: int | None = None,
        target: Target | None = None,
        select: Select | None = None,
        progress: ProgressOption = None,
        resume: str | None = None,
        unfolded: bool = False,
        connections: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends the waiting, not the call's I/O
        poll: float = 1.0,
        on_verdict: OnVerdict = "return",
        on_bad_sample: OnBadSample = "raise",
        evaluate: Iterable[Any] | None = None,
        metric: Metric | None = None,
        max_drop: float = 0.0,
        source_batches: Batches | None = None,
        details: Callable[[], ReportDetails] | None = None,
    ) -> Result:
        """As `Client.recalibrate`; batches may also be an asynchronous iterable."""
        options = Options.of(
            method=method,
            estimator=estimator,
            layers=layers,
            preprocess=preprocess,
            allow_mismatch=allow_mismatch,
            opset=opset,
            target=target,
        )
        check_on_verdict(on_verdict)
        check_on_bad_sample(on_bad_sample)
        skips = on_bad_sample == "skip"
        bad, bad_source = (SampleFilter(), SampleFilter()) if skips else (None, None)
        runtime = self._session.runtime
        source = BatchSource(batches, select, runtime, connections=connections, bad=bad)
        origin = (
            None
            if source_batches is None
            else BatchSource(
                source_batches, select, runtime, connections=connections, bad=bad_source
            )
        )
        if model is None and resume is None:
            raise OptionError("a model is required; None is valid only with resume=")
        labeled = LabeledSamples.of(evaluate, metric, max_drop)
        if model is None and labeled is not None:
            raise OptionError("evaluate= runs the source model on this machine: pass it")
        with progress_display(progress) as callback:
            session = self._session.reporting_to(callback)
            if is_module(model):
                model = await runtime.run(partial(export, model, await source.peek()))
            content = None if model is None else await runtime.run(partial(read_model, model))
            if content is not None and resume is None:
                # Sends GET /v1/models/{id}, then POST /v1/models if the server lacks it
                description = await session.upload_model(content)
                require_batchnorm(description, origin)
                # Sends POST /v1/recalibrations
                opened = await session.create(description.id, options, key=uuid.uuid4().hex)
            else:
                # Sends GET /v1/recalibrations/{id} and GET /v1/models/{id}
                opened = await session.status(str(resume))
                require_same(opened, options, content)
                description = await session.describe_model(opened.model)
            with _resumable(opened.id):
                if opened.state == "open":
                    inputs = tuple(tensor.name for tensor in description.inputs)
                    send = partial(send_all, session, opened.id, resumed=resume is not None)
                    # Sends PUT /v1/recalibrations/{id}/source-batches/{index}, several at a time
                    sent_first = (
                        0 if origin is None else await send(origin, inputs, stream="source-batches")
                    )
                    # Sends PUT /v1/recalibrations/{id}/batches/{index}, several at a time
                    sent = await send(source, inputs)
                    # Sends POST /v1/recalibrations/{id}/start
                    known = _details(model, bad, bad_source) if details is None else details()
                    await session.start(opened.id, sent, sent_first, known)
                # Sends GET /v1/recalibrations/{id}?wait=…, until it has ended
                await session.wait(opened.id, timeout_s=timeout, max_poll_s=poll)
                # Sends GET /v1/recalibrations/{id}/report, …/statistics and …/model
                result = await session.fetch(opened.id, unfolded=unfolded)
            result = replace(result, source=_file_of(model))
            if labeled is not None:
                compare = partial(labeled.compare, result, model, preprocess)
                result = await runtime.run(compare)
            if bad is not None and bad_source is not None:
                result = result.with_skipped(_skipped(bad, bad_source))
            return _accepted(result, on_verdict)

    def attach(self, recalibration_id: str) -> AsyncHandle:
        """As `Client.attach`; it sends no request and is not awaited."""
        return AsyncHandle(self, recalibration_id)

    async def upload(self, model: AnyModel) -> ModelDescription:
        """As `Client.upload`."""
        content = await self._session.runtime.run(partial(read_model, model))
        return await self._session.upload_model(content)

    async def models(self) -> tuple[ModelDescription, ...]:
        """As `Client.models`."""
        return await self._session.models()

    async def recalibrations(self, *, search: str | None = None) -> tuple[Recalibration, ...]:
        """As `Client.recalibrations`."""
        found = reversed(await self._session.recalibrations())
        return tuple(one for one in found if search is None or one.mentions(search))

    async def readiness(self) -> dict[str, Any]:
        """As `Client.readiness`."""
        return await self._session.readiness()

    async def delete_model(self, model_id: str) -> None:
        """As `Client.delete_model`."""
        await self._session.delete_model(model_id)

    async def create(
        self,
        model_id: str,
        *,
        method: str = "exact",
        estimator: str | Mapping[str, object] | None = None,
        layers: Sequence[str] | None = None,
        preprocess: Mapping[str, object] | None = None,
        allow_mismatch: bool = False,
        opset: int | None = None,
        target: Target | None = None,
        key: str | None = None,
    ) -> Recalibration:
        """As `Client.create`."""
        options = Options.of(
            method=method,
            estimator=estimator,
            layers=layers,
            preprocess=preprocess,
            allow_mismatch=allow_mismatch,
            opset=opset,
            target=target,
        )
        return await self._session.create(model_id, options, key=key or uuid.uuid4().hex)

    async def send(
        self, recalibration_id: str, index: int, batch: Mapping[str, object] | Images
    ) -> StoredBatch:
        """As `Client.send`."""
        inputs = () if isinstance(batch, Images) else tuple(batch)
        encoded = await self._session.runtime.run(partial(encode, batch, inputs, index=index))
        return await self._session.put_batch(recalibration_id, index, encoded)

    async def received(self, recalibration_id: str) -> tuple[StoredBatch, ...]:
        """As `Client.received`."""
        return await self._session.received(recalibration_id)

    async def send_source(
        self, recalibration_id: str, index: int, batch: Mapping[str, object] | Images
    ) -> StoredBatch:
        """As `Client.send_source`."""
        inputs = () if isinstance(batch, Images) else tuple(batch)
        encoded = await self._session.runtime.run(partial(encode, batch, inputs, index=index))
        return await self._session.put_batch(
            recalibration_id, index, encoded, stream="source-batches"
        )

    async def start(
        self, recalibration_id: str, batches: int, *, source_batches: int = 0
    ) -> Recalibration:
        """As `Client.start`."""
        return await self._session.start(recalibration_id, batches, source_batches)

    async def status(self, recalibration_id: str) -> Recalibration:
        """As `Client.status`."""
        return await self._session.status(recalibration_id)

    async def wait(
        self,
        recalibration_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the recalibration continues after it
        poll: float = 1.0,
        progress: ProgressOption = None,
    ) -> Recalibration:
        """As `Client.wait`."""
        with progress_display(progress) as callback:
            session = self._session.reporting_to(callback)
            return await session.wait(recalibration_id, timeout_s=timeout, max_poll_s=poll)

    async def fetch_report(self, recalibration_id: str) -> Outcome:
        """As `Client.fetch_report`."""
        return await self._session.fetch_report(recalibration_id)

    async def fetch(self, recalibration_id: str, *, unfolded: bool = False) -> Result:
        """As `Client.fetch`."""
        return await self._session.fetch(recalibration_id, unfolded=unfolded)

    async def cancel(self, recalibration_id: str) -> Recalibration:
        """As `Client.cancel`."""
        return await self._session.cancel(recalibration_id)

    async def delete(self, recalibration_id: str) -> None:
        """As `Client.delete`."""
        await self._session.delete(recalibration_id)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _details(
    model: AnyModel | None, bad: SampleFilter | None, bad_source: SampleFilter | None
) -> ReportDetails:
    """Return what the report names where the caller does not say it."""
    file = _file_of(model)
    return ReportDetails(
        model_name=None if file is None else file.name,
        skipped_samples=() if bad is None or bad_source is None else _skipped(bad, bad_source),
    )


def _skipped(bad: SampleFilter, bad_source: SampleFilter) -> tuple[SkippedSample, ...]:
    return (*bad.skipped, *of_the_source(bad_source.skipped))


def _file_of(model: AnyModel | None) -> Path | None:
    return Path(model).absolute() if isinstance(model, str | os.PathLike) else None


def _accepted(result: Result, on_verdict: OnVerdict) -> Result:
    """Return the result, unless its verdict is `do-not-deploy` and the caller wants an error.

    Raises:
        VerdictError: it is.
    """
    verdict = result.verdict
    if on_verdict == "raise" and verdict is not None and verdict.is_rejection:
        raise VerdictError(
            verdict.sentence, result=result, recalibration_id=result.recalibration_id
        )
    return result


@contextmanager
def _resumable(recalibration_id: str) -> Iterator[None]:
    """Name the recalibration, which can be resumed, in every exception that ends the block."""
    try:
        yield
    except BaseException as error:
        named = with_recalibration(error, recalibration_id)
        if named is error:
            raise
        raise named from error


class AsyncHandle:
    """One recalibration at a server: the client's methods without their first argument.

    Attributes:
        id: the recalibration's id.
    """

    def __init__(self, client: AsyncClient, recalibration_id: str) -> None:
        self._client = client
        self.id = recalibration_id

    async def status(self) -> Recalibration:
        """As `Handle.status`."""
        return await self._client.status(self.id)

    async def wait(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the recalibration continues after it
        poll: float = 1.0,
        progress: ProgressOption = None,
    ) -> Recalibration:
        """As `Handle.wait`."""
        return await self._client.wait(self.id, timeout=timeout, poll=poll, progress=progress)

    async def received(self) -> tuple[StoredBatch, ...]:
        """As `Handle.received`."""
        return await self._client.received(self.id)

    async def fetch(self, *, unfolded: bool = False) -> Result:
        """As `Handle.fetch`."""
        return await self._client.fetch(self.id, unfolded=unfolded)

    async def cancel(self) -> Recalibration:
        """As `Handle.cancel`."""
        return await self._client.cancel(self.id)

    async def delete(self) -> None:
        """As `Handle.delete`."""
        await self._client.delete(self.id)
