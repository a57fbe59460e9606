"""The real server in this process, behind a transport that injects faults, for client tests.

The worker is replaced by an executor that computes the mean and variance of everything it reads, so
a batch that is lost or counted twice shows in the result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import numpy as np
import safetensors.numpy
from anyio.from_thread import BlockingPortal, start_blocking_portal

from service.app import create_app
from service.errors import RefusedError
from service.settings import Settings
from service.workers.messages import FOLDED, REPORT_HTML, REPORT_JSON, STATISTICS, UNFOLDED
from service.workers.protocol import Job, OnProgress, Outcome, Progress
from tests.support.service_fakes import GOOD_MODEL, FakeExecutor, describe_bytes
from tests.support.service_loop import serving

MODEL = GOOD_MODEL


class MomentsExecutor(FakeExecutor):
    """Computes the float64 mean and variance of the first input of all target batches.

    Attributes:
        inputs: names of the model's inputs; None for those of the fake model.
        failure: code, detail and members with which each run fails; None for success.
        verdict: the verdict in the report; None for a report without one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inputs: tuple[str, ...] | None = None
        self.failure: dict[str, Any] | None = None
        self.verdict: dict[str, Any] | None = None

    async def inspect(self, model: Path) -> dict[str, Any]:
        if self.inputs is None:
            return await super().inspect(model)
        found = describe_bytes(MODEL)
        (tensor,) = found["inputs"]
        return {**found, "inputs": [{**tensor, "name": name} for name in self.inputs]}

    async def run(self, job: Job, on_progress: OnProgress) -> Outcome:
        self.runs += 1
        await on_progress(Progress(phase="measuring", done=0, total=1))
        while self.hold:  # noqa: ASYNC110 - a test clears it from another thread
            await anyio.sleep(0.005)
        if self.failure is not None:
            more = {key: value for key, value in self.failure.items() if key != "detail"}
            raise RefusedError(self.failure["detail"], refusal=more.pop("code"), **more)
        first, parts = job.inputs[0]["name"], []
        async for page in job.batches():
            for batch in page:
                start = batch.start or 0
                content = (job.batch_folder / batch.name).read_bytes()
                parts.append(safetensors.numpy.load(content[start : start + batch.bytes])[first])
        del parts[job.total :]  # those of the source stream come last
        pooled = np.concatenate(parts).astype(np.float64)
        moments = {"bn.running_mean": pooled.mean(axis=0), "bn.running_var": pooled.var(axis=0)}
        model = job.model.read_bytes()
        report: dict[str, Any] = {"report": 1, "stream": {"batches": len(parts)}}
        if self.verdict is not None:
            report["verdict"] = self.verdict
        for name, result in (
            (FOLDED, b"folded " + model),
            (UNFOLDED, b"unfolded " + model),
            (STATISTICS, safetensors.numpy.save(moments)),
            (REPORT_JSON, json.dumps(report).encode()),
            (REPORT_HTML, b"<h1>report</h1>"),
        ):
            (job.output / name).write_bytes(result)
        return Outcome()


@dataclass(kw_only=True)
class Fault:
    """A fault for the next `times` requests whose line matches `where`.

    Kinds: `refuse`: no connection. `lose`: the server handles the request, the response is lost.
    `problem`: a response with this status, code and headers, without the server. `damage`: the body
    lacks its last byte. `page`: the HTML page of a gateway.
    """

    kind: str
    where: str = ".*"
    times: int = 1
    status: int = 503
    code: str = "shutting-down"
    retryable: bool | None = True
    headers: Mapping[str, str] = field(default_factory=dict)


class FaultTransport(httpx.AsyncBaseTransport, httpx.BaseTransport):
    """Passes requests on to the server, or injects faults; for both clients.

    Args:
        server: the server.
        portal: the event loop in which the requests of synchronous clients are handled.

    Attributes:
        requests: method and path of every request that arrived, in order.
        faults: the faults to inject.
        on_arrival: awaited with each request's line before it arrives; requests wait side by side.
        on_wait: called with the seconds for which a poll asks the server to wait. The server itself
            never waits, because the clients' clock is not the real one.
        page: most items of a list, None for what the client asks for.
        most_uploads: the largest number of batches that were in transit at the same time.
    """

    def __init__(self, server: httpx.BaseTransport, portal: BlockingPortal) -> None:
        self._server = server
        self._portal = portal
        self._uploads = 0
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.on_arrival: Callable[[str], Awaitable[None]] = _at_once
        self.on_wait: Callable[[float], None] = lambda _: None
        self.page: int | None = None
        self.most_uploads = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        return self._portal.call(self.handle_async_request, request)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        line = f"{request.method} {request.url.path}"
        uploading = request.method == "PUT"
        self._uploads += uploading
        self.most_uploads = max(self.most_uploads, self._uploads)
        try:
            await self.on_arrival(line)
            self.requests.append(line)
            return await self._faulty(request, self._next_fault(line))
        finally:
            self._uploads -= uploading

    async def _faulty(self, request: httpx.Request, fault: Fault | None) -> httpx.Response:
        if fault is None:
            return await self._pass_on(request)
        if fault.kind == "refuse":
            raise httpx.ConnectError("connection refused", request=request)
        if fault.kind == "page":
            return httpx.Response(fault.status, text="<h1>Bad gateway</h1>")
        if fault.kind == "problem":
            return _problem(fault)
        response = await self._pass_on(request)
        if fault.kind == "lose":
            raise httpx.ReadError("connection reset", request=request)
        return httpx.Response(200, headers=response.headers, content=response.content[:-1])

    def _next_fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.where, line):
                fault.times -= 1
                return fault
        return None

    async def _pass_on(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        if "wait" in request.url.params:
            self.on_wait(float(request.url.params["wait"]))
            request.url = request.url.copy_remove_param("wait")
        if self.page is not None and "limit" in request.url.params:
            request.url = request.url.copy_set_param("limit", str(self.page))
        return await anyio.to_thread.run_sync(
            self._server.handle_request, request, abandon_on_cancel=True
        )


async def _at_once(line: str) -> None:
    del line


def _problem(fault: Fault) -> httpx.Response:
    document: dict[str, object] = {"code": fault.code, "detail": "injected", "status": fault.status}
    if fault.retryable is not None:
        document["retryable"] = fault.retryable
    headers = {"Content-Type": "application/problem+json", **fault.headers}
    return httpx.Response(fault.status, headers=headers, content=json.dumps(document))


class ClientServer:
    """A running server.

    Attributes:
        executor: computes the results.
        transport: what clients are given.
        http: asks the server without faults.
    """

    def __init__(
        self, executor: MomentsExecutor, http: httpx.Client, portal: BlockingPortal
    ) -> None:
        self.executor = executor
        self.http = http
        self.transport = FaultTransport(http._transport, portal)

    @property
    def recalibrations(self) -> list[dict[str, Any]]:
        """All recalibrations, in order of creation."""
        found: list[dict[str, Any]] = self.http.get("/v1/recalibrations").json()["items"]
        return sorted(found, key=lambda one: (one["created"], one["id"]))

    @property
    def id(self) -> str:
        """The id of the only recalibration."""
        (found,) = self.recalibrations
        return str(found["id"])

    def state(self, recalibration_id: str) -> str:
        return str(self.http.get(f"/v1/recalibrations/{recalibration_id}").json()["state"])

    def stored(self, recalibration_id: str) -> dict[int, str]:
        """Index and digest of the batches that a recalibration has."""
        items = self.http.get(f"/v1/recalibrations/{recalibration_id}/batches").json()["items"]
        return {item["index"]: item["sha256"] for item in items}

    @property
    def sent(self) -> list[int]:
        """The indices of the batches that arrived, in order, repeated ones included."""
        puts = [line for line in self.transport.requests if line.startswith("PUT")]
        return [int(line.rsplit("/", 1)[1]) for line in puts]


@contextmanager
def client_server(folder: Path, **settings: Any) -> Iterator[ClientServer]:
    """Run a server in a data folder."""
    executor = MomentsExecutor()
    app = create_app(Settings(data_dir=folder, **settings), executor=executor)
    with serving(app) as http, start_blocking_portal() as portal:
        try:
            yield ClientServer(executor, http, portal)
        finally:
            # Cancels the requests that a client has left behind.
            portal.call(partial(portal.stop, cancel_remaining=True))
