"""The client as coroutines: the one implementation, which `client.py` wraps for synchronous code.

`_http.sending.submit` and `AsyncClient.recalibrate` show the HTTP calls of a run in order; each is
a method of `_http.session.Session`, which retries it.
"""

from __future__ import annotations

import os
import ssl
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

import anyio

from bnrecal_client._concurrency import EventLoop, Sleep
from bnrecal_client._encoding.batch_source import Batches, Select
from bnrecal_client._encoding.batches import encode
from bnrecal_client._encoding.call_arguments import Call
from bnrecal_client._encoding.model_source import AnyModel, read_model
from bnrecal_client._encoding.samples import OnBadSample
from bnrecal_client._http.importing import as_urls, import_objects
from bnrecal_client._http.retry import RetryPolicy
from bnrecal_client._http.sending import Streams, resumable, submit
from bnrecal_client._http.session import Session
from bnrecal_client._http.transport import AsyncTransport, connection
from bnrecal_client._library import MAX_LABELED, Evaluate, LabeledSamples, Metric
from bnrecal_client.errors import OptionError
from bnrecal_client.images import Images
from bnrecal_client.jobs import AsyncJob
from bnrecal_client.models import (
    Import,
    ModelDescription,
    Recalibration,
    ReportDetails,
    StoredBatch,
)
from bnrecal_client.options import (
    Estimator,
    Method,
    OnVerdict,
    OptionArguments,
    Options,
    PreprocessForm,
    Target,
    accepted,
    check_on_verdict,
)
from bnrecal_client.progress import ProgressOption, progress_display
from bnrecal_client.result import Outcome, Result

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncClient", "CoroutineClient"]


class AsyncClient:
    """A bnrecal server, from asyncio or trio. Use it as a context manager, or call `close`.

    The methods are those of `Client`. A synchronous iterable of batches is read in a worker
    thread, so a slow loader does not block the event loop.

    Args:
        url: as `Client`.
        token: as `Client`.
        retry: as `Client`.
        timeout: as `Client`.
        verify: as `Client`.
        proxy: as `Client`.
        headers: as `Client`.
        transport: as `Client`.
        sleep: as `Client`.
        clock: as `Client`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        verify: bool | ssl.SSLContext = True,
        proxy: str | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = anyio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        server, policy = connection(
            url,
            token,
            retry=retry,
            timeout=timeout,
            verify=verify,
            proxy=proxy,
            headers=headers,
        )
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
        method: Method = "exact",
        estimator: Estimator | None = None,
        layers: Sequence[str] | None = None,
        preprocess: PreprocessForm | None = None,
        allow_mismatch: bool = False,
        opset: int | None = None,
        target: Target | None = None,
        max_samples: int | None = None,
        seed: int = 0,
        name: str = "",
        tags: Sequence[str] = (),
        select: Select | None = None,
        call: Call | None = None,
        progress: ProgressOption = None,
        resume: str | None = None,
        unfolded: bool = False,
        connections: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends the waiting, not the call's I/O
        poll: float = 1.0,
        on_verdict: OnVerdict = "return",
        on_bad_sample: OnBadSample = "raise",
        evaluate: Evaluate | None = None,
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
            max_samples=max_samples,
            seed=seed,
            name=name,
            tags=tags,
        )
        check_on_verdict(on_verdict)
        runtime = self._session.runtime
        streams = Streams.of(
            batches,
            source_batches,
            runtime,
            select=select,
            call=call,
            model=model,
            connections=connections,
            on_bad_sample=on_bad_sample,
            keep_labels=MAX_LABELED if evaluate == "batches" else 0,
        )
        pairs = streams.target.labeled if evaluate == "batches" else evaluate
        labeled = LabeledSamples.of(pairs, metric, max_drop)
        if model is None and resume is not None and labeled is not None:
            raise OptionError("evaluate= runs the source model on this machine: pass it")
        with progress_display(progress) as callback:
            session = self._session.reporting_to(callback)
            opened, uploaded = await submit(
                session, model, options, streams, resume=resume, details=details
            )
            with resumable(opened.id):
                # Sends GET /v1/recalibrations/{id}?wait=…, until it has ended
                await session.wait(opened.id, timeout_s=timeout, max_poll_s=poll)
                # Sends GET /v1/recalibrations/{id}/report, …/statistics and …/model
                result = await session.fetch(opened.id, unfolded=unfolded)
            result = replace(result, source=_file_of(model))
            if labeled is not None:
                compare = partial(labeled.compare, result, uploaded, preprocess)
                result = await runtime.run(compare)
            return accepted(
                result.completed(source=result.source, skipped=streams.skipped), on_verdict
            )

    async def submit(
        self,
        model: AnyModel | None,
        batches: Batches,
        *,
        select: Select | None = None,
        call: Call | None = None,
        progress: ProgressOption = None,
        resume: str | None = None,
        connections: int | None = None,
        on_bad_sample: OnBadSample = "raise",
        source_batches: Batches | None = None,
        **options: Unpack[OptionArguments],
    ) -> AsyncJob:
        """As `Client.submit`; batches may also be an asynchronous iterable."""
        asked = Options.of(**options)
        streams = Streams.of(
            batches,
            source_batches,
            self._session.runtime,
            select=select,
            call=call,
            model=model,
            connections=connections,
            on_bad_sample=on_bad_sample,
        )
        with progress_display(progress) as callback:
            session = self._session.reporting_to(callback)
            opened, _ = await submit(session, model, asked, streams, resume=resume, details=None)
        return AsyncJob(
            self,
            self._session.address_of(opened.id),
            opened,
            source=_file_of(model),
            skipped=streams.skipped,
        )

    async def job(self, recalibration_id: str) -> AsyncJob:
        """As `Client.job`."""
        found = await self._session.status(recalibration_id)
        return AsyncJob(self, self._session.address_of(found.id), found)

    async def jobs(self, *, search: str | None = None) -> tuple[AsyncJob, ...]:
        """As `Client.jobs`."""
        return tuple(
            AsyncJob(self, self._session.address_of(one.id), one)
            for one in await self._session.recalibrations(search)
        )

    async def upload(self, model: AnyModel) -> ModelDescription:
        """As `Client.upload`."""
        content = await self._session.runtime.run(partial(read_model, model))
        return await self._session.upload_model(content)

    async def models(self) -> tuple[ModelDescription, ...]:
        """As `Client.models`."""
        return await self._session.models()

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
        key: str | None = None,
        **options: Unpack[OptionArguments],
    ) -> Recalibration:
        """As `Client.create`."""
        asked = Options.of(**options)
        return await self._session.create(model_id, asked, key=key or uuid.uuid4().hex)

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

    async def import_batches(
        self,
        recalibration_id: str,
        urls: str | Sequence[str],
        *,
        first: int = 0,
        source: bool = False,
        compare: bool = False,
        progress: ProgressOption = None,
    ) -> Import:
        """As `Client.import_batches`."""
        wanted = as_urls(urls)
        with progress_display(progress) as callback:
            return await import_objects(
                self._session.reporting_to(callback),
                recalibration_id,
                wanted,
                stream="source-batches" if source else "batches",
                first=first,
                compare=compare,
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


class CoroutineClient(AsyncClient):
    """The methods of `AsyncClient` as coroutines that never suspend, for `client.Client`.

    Args:
        session: its runtime and its transport block.
    """

    def __init__(self, session: Session) -> None:
        self._session = session


def _file_of(model: AnyModel | None) -> Path | None:
    return Path(model).absolute() if isinstance(model, str | os.PathLike) else None
