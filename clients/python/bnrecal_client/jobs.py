"""Jobs: recalibrations of a server as objects that can be waited for, cancelled and fetched."""

from __future__ import annotations

import html
from pathlib import Path
from typing import TYPE_CHECKING

from bnrecal_client.models import Recalibration, SkippedSample, StoredBatch
from bnrecal_client.options import OnVerdict, accepted, check_on_verdict
from bnrecal_client.progress import ProgressOption
from bnrecal_client.result import Result

if TYPE_CHECKING:
    from bnrecal_client.async_client import AsyncClient
    from bnrecal_client.client import Client

__all__ = ["AsyncJob", "Job"]


class _Job:
    """What `Job` and `AsyncJob` know without a request.

    Args:
        url: the recalibration's address.
        state: the recalibration as the server last described it.
        source: the file of the source model; None if unknown.
        skipped: samples that were left out while the batches were sent.
    """

    def __init__(
        self,
        url: str,
        state: Recalibration,
        *,
        source: Path | None = None,
        skipped: tuple[SkippedSample, ...] = (),
    ) -> None:
        self._url = url
        self._state = state
        self._source = source
        self._skipped = skipped

    @property
    def id(self) -> str:
        """The recalibration's id, `rc_…`."""
        return self._state.id

    @property
    def url(self) -> str:
        """The recalibration's address at the server."""
        return self._url

    @property
    def name(self) -> str:
        """Its name for people; may be empty."""
        return self._state.name

    @property
    def tags(self) -> tuple[str, ...]:
        """Words by which people group recalibrations."""
        return self._state.tags

    @property
    def state(self) -> Recalibration:
        """The recalibration as the server last described it; `status` asks again."""
        return self._state

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<{type(self).__name__} {self.id}{name}: {self._state.summary}>"

    def _repr_html_(self) -> str:
        name = f"{html.escape(self.name)} " if self.name else ""
        return (
            f'<p>{name}<a href="{html.escape(self.url)}"><code>{html.escape(self.id)}</code></a>: '
            f"<b>{html.escape(self._state.summary)}</b></p>"
        )

    def _finished(self, result: Result, on_verdict: OnVerdict) -> Result:
        """Return the result with the source model and the skipped samples.

        Raises:
            VerdictError: as `options.accepted`.
        """
        return accepted(result.completed(source=self._source, skipped=self._skipped), on_verdict)


class Job(_Job):
    """One recalibration of a server, from `Client.submit`, `Client.job` or `Client.jobs`.

    Args:
        client: sends the requests.
        url: the recalibration's address.
        state: the recalibration as the server last described it.
        source: the file of the source model; None if unknown.
        skipped: samples that were left out while the batches were sent.
    """

    def __init__(
        self,
        client: Client,
        url: str,
        state: Recalibration,
        *,
        source: Path | None = None,
        skipped: tuple[SkippedSample, ...] = (),
    ) -> None:
        super().__init__(url, state, source=source, skipped=skipped)
        self._client = client

    @classmethod
    def of(cls, client: Client, job: AsyncJob) -> Job:
        """Return an `AsyncJob` for synchronous code."""
        return cls(client, job.url, job.state, source=job._source, skipped=job._skipped)  # noqa: SLF001 - of the same base

    def status(self) -> Recalibration:
        """Ask the server for the state, and return it."""
        self._state = self._client.status(self.id)
        return self._state

    def wait(
        self,
        *,
        timeout: float | None = None,
        poll: float = 1.0,
        progress: ProgressOption = None,
    ) -> Recalibration:
        """Wait until it has succeeded, as `Client.wait`."""
        self._state = self._client.wait(self.id, timeout=timeout, poll=poll, progress=progress)
        return self._state

    def result(
        self,
        *,
        timeout: float | None = None,
        poll: float = 1.0,
        progress: ProgressOption = None,
        unfolded: bool = False,
        on_verdict: OnVerdict = "return",
    ) -> Result:
        """Wait until it has succeeded, and return its results.

        Args:
            timeout: as `Client.wait`.
            poll: as `Client.wait`.
            progress: as `Client.wait`.
            unfolded: also fetch the recalibrated model with its BatchNorm kept.
            on_verdict: as `Client.recalibrate`.

        Raises:
            RecalibrationFailed: it ended without a result.
            TimedOut: it has not ended within `timeout` seconds.
            VerdictError: the verdict is `do-not-deploy`, with `on_verdict="raise"`.
        """
        check_on_verdict(on_verdict)
        self.wait(timeout=timeout, poll=poll, progress=progress)
        return self._finished(self._client.fetch(self.id, unfolded=unfolded), on_verdict)

    def received(self) -> tuple[StoredBatch, ...]:
        """Return the stored batches, by index."""
        return self._client.received(self.id)

    def cancel(self) -> Recalibration:
        """Cancel it."""
        self._state = self._client.cancel(self.id)
        return self._state

    def delete(self) -> None:
        """Delete it and everything uploaded for it."""
        self._client.delete(self.id)


class AsyncJob(_Job):
    """As `Job`, with coroutines.

    Args:
        client: as `Job`.
        url: as `Job`.
        state: as `Job`.
        source: as `Job`.
        skipped: as `Job`.
    """

    def __init__(
        self,
        client: AsyncClient,
        url: str,
        state: Recalibration,
        *,
        source: Path | None = None,
        skipped: tuple[SkippedSample, ...] = (),
    ) -> None:
        super().__init__(url, state, source=source, skipped=skipped)
        self._client = client

    async def status(self) -> Recalibration:
        """As `Job.status`."""
        self._state = await self._client.status(self.id)
        return self._state

    async def wait(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the recalibration continues after it
        poll: float = 1.0,
        progress: ProgressOption = None,
    ) -> Recalibration:
        """As `Job.wait`."""
        self._state = await self._client.wait(
            self.id, timeout=timeout, poll=poll, progress=progress
        )
        return self._state

    async def result(
        self,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - see `wait`
        poll: float = 1.0,
        progress: ProgressOption = None,
        unfolded: bool = False,
        on_verdict: OnVerdict = "return",
    ) -> Result:
        """As `Job.result`."""
        check_on_verdict(on_verdict)
        await self.wait(timeout=timeout, poll=poll, progress=progress)
        return self._finished(await self._client.fetch(self.id, unfolded=unfolded), on_verdict)

    async def received(self) -> tuple[StoredBatch, ...]:
        """As `Job.received`."""
        return await self._client.received(self.id)

    async def cancel(self) -> Recalibration:
        """As `Job.cancel`."""
        self._state = await self._client.cancel(self.id)
        return self._state

    async def delete(self) -> None:
        """As `Job.delete`."""
        await self._client.delete(self.id)
