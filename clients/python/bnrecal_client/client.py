"""The synchronous client: each method runs that of `AsyncClient`, blocking the calling thread.

The caller's iterables and callbacks run in the thread that called the method; concurrent uploads in
others, which end before the method does, except after Ctrl-C.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from bnrecal_client._concurrency import Blocking, run_blocking
from bnrecal_client._encoding.batch_source import Batches, Select, require_synchronous
from bnrecal_client._encoding.call_arguments import Call
from bnrecal_client._encoding.model_source import AnyModel
from bnrecal_client._encoding.samples import OnBadSample
from bnrecal_client._http.retry import RetryPolicy
from bnrecal_client._http.session import Session
from bnrecal_client._http.transport import BlockingTransport, connection
from bnrecal_client._library import Evaluate, Metric
from bnrecal_client.async_client import CoroutineClient
from bnrecal_client.images import Images
from bnrecal_client.jobs import Job
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
    PreprocessForm,
    Target,
)
from bnrecal_client.progress import ProgressOption
from bnrecal_client.result import Outcome, Result

if TYPE_CHECKING:
    import httpx

__all__ = ["Client"]


class Client:
    """A bnrecal server, from synchronous code. Use it as a context manager, or call `close`.

    Every method raises errors of the tree in `errors.py`. Threads may share a client.

    Args:
        url: the server's address, such as `http://127.0.0.1:8000`. None: that of the environment
            variable BNRECAL_SERVER, else of the user's configuration (docs/client.md).
        token: sent as a bearer token. None: BNRECAL_TOKEN, else that of the configuration, if any.
        retry: how long failed requests are retried, and the time limits of one try.
        timeout: limit of one wait for bytes, in seconds; None: that of `retry`.
        verify: False accepts any certificate; an `ssl.SSLContext` decides by its own rules.
        proxy: the URL of a proxy; None to use the environment (HTTPS_PROXY and the like).
        headers: further headers of every request.
        transport: replaces the network, for tests and proxies.
        sleep: waits for a number of seconds.
        clock: returns monotonic seconds, which `sleep` moves forward.
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
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
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
        self._client = CoroutineClient(
            Session(
                url=server.url,
                transport=BlockingTransport(server, transport),
                runtime=Blocking(sleep),
                retry=policy,
                clock=clock,
            )
        )

    def recalibrate(
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
        timeout: float | None = None,
        poll: float = 1.0,
        on_verdict: OnVerdict = "return",
        on_bad_sample: OnBadSample = "raise",
        evaluate: Evaluate | None = None,
        metric: Metric | None = None,
        max_drop: float = 0.0,
        source_batches: Batches | None = None,
        details: Callable[[], ReportDetails] | None = None,
    ) -> Result:
        """Recalibrate a model for the domain that the batches come from.

        Args:
            model: path, bytes or onnx.ModelProto; with bn_ops also an nn.Module or ExportedProgram,
                which is exported here with the first batch. None only with `resume`.
            batches: iterable of arrays, tensors, tuples (in the order of the inputs), dicts (by
                name) or `Images`; a `datasets.Dataset`, `tf.data.Dataset` or `numpy.memmap`.
                Read once, at most `connections` batches are in memory. Or one or several URLs of
                objects that the server reads itself, such as `s3://bucket/{000..999}.tar`.
            method: `exact` (layer by layer in eval mode) or `batch` (one train-mode pass).
            estimator: `"auto"` (default; `"replace"` with the method `batch`), `"auto:varied"`,
                `"replace"`, `"shrink"`, `"prior:16"`, `"momentum:0.1"`, or the JSON form.
            layers: globs of layer names to include, `"!glob"` to exclude; None means all.
            preprocess: for batches of `Images`: how each image is preprocessed, in JSON form.
            allow_mismatch: whether data that do not fit the model are only a warning of the report.
            opset: of the models; None for the source's, or the nearest that `target` takes.
            target: where the folded model is deployed: `onnxruntime`, `tensorrt`, `openvino`,
                `rknn` or `coreml`; a model with an operator that it lacks is refused.
            max_samples: number of samples that the server chooses of the stream, independent of
                their order; None for all.
            seed: seed of that choice.
            select: applied to each item first. Labels that come with the batches, as the last item
                of a tuple or under a name such as `labels`, are never sent, with or without it.
            call: `call(module, batch)` calls an nn.Module once, with tensors, which are sent. The
                first batch runs through the module on this machine.
            progress: False for none; or a callback.
            resume: id of a recalibration to continue; what it has is compared and not sent again.
            name: a name for people, which the server's list shows and searches.
            tags: words by which people group recalibrations.
            unfolded: also fetch the recalibrated model with its BatchNorm kept.
            connections: batches sent at the same time, 1 to 16. None: 4 where `batches` can be read
                again (a list), 1 for an iterator, read no faster than the server stores it.
            timeout: limit of the wait for the end of the run, in seconds; None for none.
            poll: longest pause between two polls, in seconds.
            on_verdict: `"return"` returns every result; `"raise"` raises a `VerdictError` that
                holds the result if its verdict is `do-not-deploy`.
            on_bad_sample: `"raise"`: a sample with NaN or Inf, or an image that cannot be decoded,
                is an error; `"skip"` leaves it out and lists it in `skipped`.
            evaluate: `(inputs, labels)` pairs, inputs as in the stream, or `"batches"` for the
                labels in the first 1024 samples of `batches`. Labels stay on this machine, where
                `bn_ops` compares the models; report and verdict then follow from the labels.
            metric: `metric(outputs, labels)` scores the labeled samples, the higher the better;
                None for the error of the most likely class.
            max_drop: the drop of the accuracy or the metric that the verdict tolerates.
            source_batches: for a model without BatchNorm layers: unlabeled batches of the domain
                that it was trained on, as `batches`, sent first.
            details: called once everything is sent; returns what the report names.

        Raises:
            InputError: the data or an option is invalid; `ImportFailed` lists objects that failed.
            ModelError: the model is invalid.
            RecalibrationFailed: the run ended without a result.
            VerdictError: the verdict is `do-not-deploy`, with `on_verdict="raise"`.
            TimedOut: the run has not ended in time; it continues.
            ServerUnreachable: no response within the time of the retry policy; `resume` continues.
            Interrupted: Ctrl-C, once there is a recalibration; `resume` continues.
        """
        require_synchronous(batches, source_batches)
        return run_blocking(
            self._client.recalibrate(
                model,
                batches,
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
                select=select,
                call=call,
                progress=progress,
                resume=resume,
                unfolded=unfolded,
                connections=connections,
                timeout=timeout,
                poll=poll,
                on_verdict=on_verdict,
                on_bad_sample=on_bad_sample,
                evaluate=evaluate,
                metric=metric,
                max_drop=max_drop,
                source_batches=source_batches,
                details=details,
            )
        )

    def submit(
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
    ) -> Job:
        """Send a model and its batches and start the run, as `recalibrate`, without waiting."""
        require_synchronous(batches, source_batches)
        job = run_blocking(
            self._client.submit(
                model,
                batches,
                select=select,
                call=call,
                progress=progress,
                resume=resume,
                connections=connections,
                on_bad_sample=on_bad_sample,
                source_batches=source_batches,
                **options,
            )
        )
        return Job.of(self, job)

    def job(self, recalibration_id: str) -> Job:
        """Return an existing recalibration.

        Raises:
            NotFoundError: the server has none of this id.
        """
        return Job.of(self, run_blocking(self._client.job(recalibration_id)))

    def jobs(self, *, search: str | None = None) -> tuple[Job, ...]:
        """Return the recalibrations of the server, the newest first.

        Args:
            search: only those whose name, tags, id, model, state or verdict contain this text.
        """
        return tuple(Job.of(self, job) for job in run_blocking(self._client.jobs(search=search)))

    def upload(self, model: AnyModel) -> ModelDescription:
        """Upload a model (not a module), unless the server already stores these bytes."""
        return run_blocking(self._client.upload(model))

    def models(self) -> tuple[ModelDescription, ...]:
        """Return the models that the server stores."""
        return run_blocking(self._client.models())

    def readiness(self) -> dict[str, Any]:
        """Return the server's `/readyz`: whether it can work, and its workers' sandbox."""
        return run_blocking(self._client.readiness())

    def delete_model(self, model_id: str) -> None:
        """Delete a model."""
        run_blocking(self._client.delete_model(model_id))

    def create(
        self,
        model_id: str,
        *,
        key: str | None = None,
        **options: Unpack[OptionArguments],
    ) -> Recalibration:
        """Create a recalibration of an uploaded model; options as `recalibrate`.

        `key` is the Idempotency-Key: the same key returns the same recalibration. None: a new one.
        """
        return run_blocking(
            self._client.create(
                model_id,
                key=key,
                **options,
            )
        )

    def send(
        self, recalibration_id: str, index: int, batch: Mapping[str, object] | Images
    ) -> StoredBatch:
        """Store one batch of named arrays or images; repeating it changes nothing."""
        return run_blocking(self._client.send(recalibration_id, index, batch))

    def received(self, recalibration_id: str) -> tuple[StoredBatch, ...]:
        """Return the stored batches, by index."""
        return run_blocking(self._client.received(recalibration_id))

    def send_source(
        self, recalibration_id: str, index: int, batch: Mapping[str, object] | Images
    ) -> StoredBatch:
        """Store one source batch, for a model without BatchNorm layers, in the same way."""
        return run_blocking(self._client.send_source(recalibration_id, index, batch))

    def import_batches(
        self,
        recalibration_id: str,
        urls: str | Sequence[str],
        *,
        first: int = 0,
        source: bool = False,
        compare: bool = False,
        progress: ProgressOption = None,
    ) -> Import:
        """Have the server store objects of its object storage as batches.

        The same call continues an import that was interrupted.

        Args:
            recalibration_id: an open recalibration.
            urls: objects in stream order, such as `s3://bucket/{000..999}.tar`.
            first: index of the batch of the first object.
            source: whether they are batches of the source stream.
            compare: read an object also if its index has a batch of the same size.
            progress: as `recalibrate`.

        Returns:
            What became of each object; one that failed has its typed error.

        Raises:
            AccessError: a URL is below no prefix that the server allows; nothing was imported.
            ConflictError: the recalibration is not open.
            ServerUnreachable: no batch was stored within the time of the retry policy.
        """
        return run_blocking(
            self._client.import_batches(
                recalibration_id,
                urls,
                first=first,
                source=source,
                compare=compare,
                progress=progress,
            )
        )

    def start(
        self, recalibration_id: str, batches: int, *, source_batches: int = 0
    ) -> Recalibration:
        """Seal the streams at these numbers of batches and queue the run."""
        return run_blocking(
            self._client.start(recalibration_id, batches, source_batches=source_batches)
        )

    def status(self, recalibration_id: str) -> Recalibration:
        """Return the state."""
        return run_blocking(self._client.status(recalibration_id))

    def wait(
        self,
        recalibration_id: str,
        *,
        timeout: float | None = None,
        poll: float = 1.0,
        progress: ProgressOption = None,
    ) -> Recalibration:
        """Wait until a started recalibration has succeeded.

        Raises:
            RecalibrationFailed: it ended without a result.
            TimedOut: it has not ended within `timeout` seconds.
        """
        return run_blocking(
            self._client.wait(
                recalibration_id,
                timeout=timeout,
                poll=poll,
                progress=progress,
            )
        )

    def fetch_report(self, recalibration_id: str) -> Outcome:
        """Return the results of a succeeded recalibration without its models."""
        return run_blocking(self._client.fetch_report(recalibration_id))

    def fetch(self, recalibration_id: str, *, unfolded: bool = False) -> Result:
        """Return the results of a succeeded recalibration."""
        return run_blocking(self._client.fetch(recalibration_id, unfolded=unfolded))

    def cancel(self, recalibration_id: str) -> Recalibration:
        """Cancel a recalibration."""
        return run_blocking(self._client.cancel(recalibration_id))

    def delete(self, recalibration_id: str) -> None:
        """Delete a recalibration and everything uploaded for it."""
        run_blocking(self._client.delete(recalibration_id))

    def close(self) -> None:
        """Close the connections."""
        run_blocking(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
