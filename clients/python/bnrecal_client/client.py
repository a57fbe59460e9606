"""The synchronous client: a thin shell that plays the shared plans with `httpx.Client`."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self, TypeVar

import httpx

from bnrecal_client._encoding.model_source import AnyModel, read_model
from bnrecal_client._runtime.drivers import Sleep, play
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

__all__ = ["Client", "Handle"]

T = TypeVar("T")


class Client:
    """A bnrecal server, from synchronous code. Use it as a context manager, or call `close`.

    Every method raises an error of the tree in `errors.py`. Threads may share one client.

    Args:
        url: the server's address, such as `http://127.0.0.1:8000`.
        token: sent as a bearer token; None where the server asks for none.
        patience: how long trouble is borne.
        transport: replaces the network, for tests and proxies.
        sleep: waits for so many seconds.
        clock: monotonic seconds, which `sleep` moves forward.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        patience: Patience | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Sleep = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        bearing = patience or Patience()
        self._http = httpx.Client(
            base_url=server_url(url),
            headers=headers(token),
            timeout=timeout(bearing),
            transport=transport,
        )
        self._link = Link.to(server_url(url), bearing, clock)
        self._sleep = sleep

    def recalibrate(
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
        timeout: float | None = None,
        poll: float = 1.0,
    ) -> Result:
        """Recalibrate a model for the domain that the batches come from.

        Args:
            model: path, bytes, onnx.ModelProto; or, where bn_ops is installed, an nn.Module or
                ExportedProgram, which is exported here with the first batch as its example. None
                only with `resume`.
            batches: iterable of arrays, tensors, tuples (in the order of the model's inputs) or
                dicts (by input name); or `Images`, with `preprocess`. Read once, at most
                `connections` batches in memory.
            method: `exact` (layer by layer in eval mode) or `batch` (one train-mode pass).
            estimator: `"replace"` (default), `"shrink"`, `"prior:16"`, `"momentum:0.1"`, or the
                JSON form.
            layers: globs of layer names to include, `"!glob"` to leave out; None means all.
            preprocess: for batches of `Images`: what is done to each image, in JSON form.
            select: applied to each item first, for streams of `(input, label)` and the like.
            progress: None shows a bar on a terminal; False is silent; or a callback.
            resume: id of a recalibration to go on with; what it holds already is checked and not
                sent again.
            unfolded: fetch the recalibrated model with its BatchNorm kept, too.
            connections: how many batches are sent at once, 1 to 16. None: 4 where `batches` can be
                read again (a list, a DataLoader), 1 for an iterator or an asynchronous iterable,
                which then is read no faster than the server stores it.
            timeout: seconds to wait for the server's work once all is sent; None means no limit.
            poll: longest pause between two questions for the state, in seconds.

        Raises:
            InputError: the data or an option; ModelError: the model.
            RecalibrationFailed: the run ended without a result.
            TimedOut: it has not ended in time; it goes on.
            ServerUnreachable: no answer within the patience; `resume` goes on.
            Interrupted: Ctrl-C, once there is a recalibration; `resume` goes on.
        """
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
            return self._play(
                recalibrate(link, Reader(batches, select, connections=connections), run)
            )

    def attach(self, recalibration: str) -> Handle:
        """Return a handle on a recalibration that exists already; asks the server nothing yet."""
        return Handle(self, recalibration)

    def upload(self, model: AnyModel) -> ModelDescription:
        """Upload a model (not a module), unless the server holds these bytes already."""
        return self._play(plans.upload(self._link, read_model(model)))

    def models(self) -> tuple[ModelDescription, ...]:
        """List the models that the server holds."""
        return self._play(plans.models(self._link))

    def delete_model(self, model: str) -> None:
        """Delete a model."""
        self._play(plans.delete_model(self._link, model))

    def create(
        self,
        model: str,
        *,
        method: str = "exact",
        estimator: str | Mapping[str, object] | None = None,
        layers: Sequence[str] | None = None,
        preprocess: Mapping[str, object] | None = None,
        key: str | None = None,
    ) -> Recalibration:
        """Create a recalibration of an uploaded model.

        Args:
            model: the model's id.
            method: as `recalibrate`.
            estimator: as `recalibrate`.
            layers: as `recalibrate`.
            preprocess: as `recalibrate`.
            key: Idempotency-Key; the same key again gives the same recalibration. None: a new one.
        """
        options = Options.of(
            method=method, estimator=estimator, layers=layers, preprocess=preprocess
        )
        return self._play(plans.create(self._link, model, options, key or uuid.uuid4().hex))

    def send(
        self, recalibration: str, index: int, batch: Mapping[str, object] | Images
    ) -> StoredBatch:
        """Store one batch of named arrays or images; the same again changes nothing."""
        return self._play(plans.send_arrays(self._link, recalibration, index, batch))

    def received(self, recalibration: str) -> tuple[StoredBatch, ...]:
        """List what has arrived, by index."""
        return self._play(plans.received(self._link, recalibration))

    def start(self, recalibration: str, batches: int) -> Recalibration:
        """Seal the stream at that many batches and queue the run."""
        return self._play(plans.start(self._link, recalibration, batches))

    def status(self, recalibration: str) -> Recalibration:
        """Ask for the state."""
        return self._play(plans.status(self._link, recalibration))

    def wait(
        self,
        recalibration: str,
        *,
        timeout: float | None = None,
        poll: float = 1.0,
        progress: WantsProgress = None,
    ) -> Recalibration:
        """Wait until a started recalibration has succeeded.

        Raises:
            RecalibrationFailed: it ended without a result.
            TimedOut: it has not ended within `timeout` seconds.
        """
        with watching(progress) as notify:
            link = replace(self._link, notify=notify)
            plan = plans.wait(link, recalibration, timeout_s=timeout, poll_longest_s=poll)
            return self._play(plan)

    def fetch(self, recalibration: str, *, unfolded: bool = False) -> Result:
        """Fetch what a succeeded recalibration has made."""
        return self._play(plans.fetch(self._link, recalibration, unfolded=unfolded))

    def cancel(self, recalibration: str) -> Recalibration:
        """Stop a recalibration for good."""
        return self._play(plans.cancel(self._link, recalibration))

    def delete(self, recalibration: str) -> None:
        """Delete a recalibration with everything that was uploaded for it."""
        self._play(plans.delete(self._link, recalibration))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _play(self, plan: Plan[T]) -> T:
        return play(plan, self._http, self._sleep)


class Handle:
    """One recalibration at a server: the client's methods with its id filled in.

    Attributes:
        id: the recalibration's id.
    """

    def __init__(self, client: Client, recalibration: str) -> None:
        self._client = client
        self.id = recalibration

    def status(self) -> Recalibration:
        """Ask for the state."""
        return self._client.status(self.id)

    def wait(
        self,
        *,
        timeout: float | None = None,
        poll: float = 1.0,
        progress: WantsProgress = None,
    ) -> Recalibration:
        """Wait until it has succeeded."""
        return self._client.wait(self.id, timeout=timeout, poll=poll, progress=progress)

    def received(self) -> tuple[StoredBatch, ...]:
        """List what has arrived, by index."""
        return self._client.received(self.id)

    def fetch(self, *, unfolded: bool = False) -> Result:
        """Fetch what it has made, once it has succeeded."""
        return self._client.fetch(self.id, unfolded=unfolded)

    def cancel(self) -> Recalibration:
        """Stop it for good."""
        return self._client.cancel(self.id)

    def delete(self) -> None:
        """Delete it with everything that was uploaded for it."""
        self._client.delete(self.id)
