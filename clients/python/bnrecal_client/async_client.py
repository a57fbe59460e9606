"""The asynchronous client: the same plans as `client.py`, played with `httpx.AsyncClient`.

A test holds the two surfaces equal: same methods, same parameters, same types.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

import anyio
import httpx

from bnrecal_client._encoding.model_source import AnyModel, read_model
from bnrecal_client._runtime.drivers import AsyncSleep, play_async
from bnrecal_client._runtime.effects import Plan
from bnrecal_client._workflows import operations as plans
from bnrecal_client._workflows.recalibrate import Run, recalibrate
from bnrecal_client._workflows.retry import Link
from bnrecal_client._workflows.upload_stream import Batches, Reader, Select
from bnrecal_client.images import Images
from bnrecal_client.models import ModelDescription, Recalibration, StoredBatch
from bnrecal_client.options import Options
from bnrecal_client.progress import WantsProgress, watching
from bnrecal_client.result import Result
from bnrecal_client.retry_policy import Patience, headers, server_url, timeout

__all__ = ["AsyncClient", "AsyncHandle"]

T = TypeVar("T")


class AsyncClient:
    """A bnrecal server, from asyncio or trio. Use it as a context manager, or call `close`.

    Every method does what `Client`'s does. A synchronous iterable of batches is read in a worker
    thread, so a slow loader does not hold up the event loop.

    Args:
        url: as `Client`.
        token: as `Client`.
        patience: as `Client`.
        transport: as `Client`, asynchronous.
        sleep: as `Client`, asynchronous.
        clock: as `Client`.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: Patience | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: AsyncSleep = anyio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        bearing = patience or Patience()
        self._http = httpx.AsyncClient(
            base_url=server_url(url),
            headers=headers(token),
            timeout=timeout(bearing),
            transport=transport,
        )
        self._link = Link.to(server_url(url), bearing, clock)
        self._sleep = sleep

    async def recalibrate(
        self,
        model: AnyModel | None,
        batches: Batches,
        *,
        method: str = "exact",
        estimator: str | Mapping[str, object] | None = None,
        layers: Sequence[str] | None = None,
        preprocess: Mapping[str, object] | None = None,
        select: Select | None = None,
        progress: WantsProgress = None,
        resume: str | None = None,
        unfolded: bool = False,
        connections: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends the waiting, not the call's I/O
        poll: float = 1.0,
    ) -> Result:
        """As `Client.recalibrate`; batches may be an asynchronous iterable, too."""
        run = Run.of(
            model,
            Options.of(method=method, estimator=estimator, layers=layers, preprocess=preprocess),
            resume=resume,
            unfolded=unfolded,
            timeout_s=timeout,
            poll_longest_s=poll,
        )
        with watching(progress) as notify:
            link = replace(self._link, notify=notify)
            return await self._play(
                recalibrate(link, Reader(batches, select, connections=connections), run)
            )

    def attach(self, recalibration: str) -> AsyncHandle:
        """As `Client.attach`; asks the server nothing, so it need not be awaited."""
        return AsyncHandle(self, recalibration)

    async def upload(self, model: AnyModel) -> ModelDescription:
        """As `Client.upload`."""
        content = await self._play(plans.compute(lambda: read_model(model)))
        return await self._play(plans.upload(self._link, content))

    async def models(self) -> tuple[ModelDescription, ...]:
        """As `Client.models`."""
        return await self._play(plans.models(self._link))

    async def delete_model(self, model: str) -> None:
        """As `Client.delete_model`."""
        await self._play(plans.delete_model(self._link, model))

    async def create(
        self,
        model: str,
        *,
        method: str = "exact",
        estimator: str | Mapping[str, object] | None = None,
        layers: Sequence[str] | None = None,
        preprocess: Mapping[str, object] | None = None,
        key: str | None = None,
    ) -> Recalibration:
        """As `Client.create`."""
        options = Options.of(
            method=method, estimator=estimator, layers=layers, preprocess=preprocess
        )
        return await self._play(plans.create(self._link, model, options, key or uuid.uuid4().hex))

    async def send(
        self, recalibration: str, index: int, batch: Mapping[str, object] | Images
    ) -> StoredBatch:
        """As `Client.send`."""
        return await self._play(plans.send_arrays(self._link, recalibration, index, batch))

    async def received(self, recalibration: str) -> tuple[StoredBatch, ...]:
        """As `Client.received`."""
        return await self._play(plans.received(self._link, recalibration))

    async def start(self, recalibration: str, batches: int) -> Recalibration:
        """As `Client.start`."""
        return await self._play(plans.start(self._link, recalibration, batches))

    async def status(self, recalibration: str) -> Recalibration:
        """As `Client.status`."""
        return await self._play(plans.status(self._link, recalibration))

    async def wait(
        self,
        recalibration: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the recalibration goes on after it
        poll: float = 1.0,
        progress: WantsProgress = None,
    ) -> Recalibration:
        """As `Client.wait`."""
        with watching(progress) as notify:
            link = replace(self._link, notify=notify)
            plan = plans.wait(link, recalibration, timeout_s=timeout, poll_longest_s=poll)
            return await self._play(plan)

    async def fetch(self, recalibration: str, *, unfolded: bool = False) -> Result:
        """As `Client.fetch`."""
        return await self._play(plans.fetch(self._link, recalibration, unfolded=unfolded))

    async def cancel(self, recalibration: str) -> Recalibration:
        """As `Client.cancel`."""
        return await self._play(plans.cancel(self._link, recalibration))

    async def delete(self, recalibration: str) -> None:
        """As `Client.delete`."""
        await self._play(plans.delete(self._link, recalibration))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _play(self, plan: Plan[T]) -> T:
        return await play_async(plan, self._http, self._sleep)


class AsyncHandle:
    """One recalibration at a server: the client's methods with its id filled in.

    Attributes:
        id: the recalibration's id.
    """

    def __init__(self, client: AsyncClient, recalibration: str) -> None:
        self._client = client
        self.id = recalibration

    async def status(self) -> Recalibration:
        """As `Handle.status`."""
        return await self._client.status(self.id)

    async def wait(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the recalibration goes on after it
        poll: float = 1.0,
        progress: WantsProgress = None,
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
