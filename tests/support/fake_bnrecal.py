# ruff: noqa: ARG002 - the handlers of all routes share one signature
"""A bnrecal server in memory, behind httpx.MockTransport, with faults to order.

It keeps to the HTTP contract and really computes: its one layer's statistics are the mean and
variance of everything that arrived, so a batch lost or counted twice shows in the result.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import safetensors.numpy

MODEL = b"ONNX model with one layer"
NOW = "2026-01-01T00:00:00Z"
INPUT = {"name": "x", "dtype": "float32", "shape": ["n", 3]}
LAYER = {
    "name": "bn",
    "channels": 3,
    "eps": 1e-5,
    "affine": True,
    "input_rank": 2,
    "reason": None,
}


@dataclass(kw_only=True)
class Fault:
    """Trouble for the next `times` requests that match.

    `refuse`: no connection. `lose`: the server does it, its answer gets lost. `problem`: it
    answers with this status, code and headers, and does nothing. `damage`: the body comes damaged.
    `page`: a gateway's own page.
    """

    kind: str
    where: str = ".*"
    times: int = 1
    after: int = 0
    status: int = 503
    code: str = "shutting-down"
    retryable: bool | None = True
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Stored:
    """One recalibration."""

    id: str
    model: str
    options: dict[str, Any]
    state: str = "open"
    total: int | None = None
    batches: dict[int, bytes] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    asked: int = 0


class FakeServer:
    """The server; `transport` is what a client is given."""

    def __init__(
        self, *, inputs: tuple[dict[str, Any], ...] = (INPUT,), magic: bytes = b"ONNX"
    ) -> None:
        self.inputs = inputs
        self.magic = magic
        self.models: dict[str, bytes] = {}
        self.recalibrations: dict[str, Stored] = {}
        self.keys: dict[str, tuple[bytes, str]] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.token: str | None = None
        self.fails_with: dict[str, Any] | None = None
        self.never_ends = False
        # Called with the seconds for which a status may wait; as it is, the server is one of old.
        self.on_wait: Callable[[float], None] = lambda _: None
        self.page = 1000
        self.on_request: Callable[[str], None] = lambda _: None
        # Called beside other requests, and free to wait for them.
        self.on_arrival: Callable[[str], None] = lambda _: None
        self._one_at_a_time = threading.Lock()

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        line = f"{request.method} {request.url.path}"
        self.on_arrival(line)
        with self._one_at_a_time:
            return self._handle(request, line)

    def _handle(self, request: httpx.Request, line: str) -> httpx.Response:
        self.on_request(line)
        self.requests.append(line)
        fault = self._fault(line)
        if fault is None:
            return self._answer(request)
        if fault.kind == "refuse":
            raise httpx.ConnectError("connection refused", request=request)
        if fault.kind == "lose":
            self._answer(request)
            raise httpx.ReadError("connection reset", request=request)
        if fault.kind == "page":
            return httpx.Response(fault.status, text="<h1>Bad gateway</h1>")
        if fault.kind == "damage":
            response = self._answer(request)
            return httpx.Response(200, headers=response.headers, content=response.content[:-1])
        extra = {} if fault.retryable is None else {"retryable": fault.retryable}
        return problem(fault.status, fault.code, "in trouble", headers=fault.headers, **extra)

    def _fault(self, line: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.where, line):
                if fault.after > 0:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault
        return None

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return problem(401, "unauthenticated", "a token is needed")
        body = request.read()
        said = request.headers.get("content-digest")
        if said is not None and said != digest(body):
            return problem(400, "digest-mismatch", "the body is not what its digest says")
        for method, pattern, handler in self._routes():
            found = re.fullmatch(pattern, request.url.path)
            if found and method == request.method:
                return handler(request, body, *found.groups())
        return problem(404, "not-found", f"no route {request.url.path}")

    def _routes(self) -> Iterator[tuple[str, str, Callable[..., httpx.Response]]]:
        one = "/v1/recalibrations/([^/]+)"
        yield "POST", "/v1/models", self._upload
        yield "GET", "/v1/models", self._models
        yield "GET", "/v1/models/([^/]+)", self._model
        yield "DELETE", "/v1/models/([^/]+)", self._delete_model
        yield "POST", "/v1/recalibrations", self._create
        yield "GET", one, self._known(self._status)
        yield "DELETE", one, self._known(self._delete)
        yield "PUT", f"{one}/batches/([0-9]+)", self._known(self._put)
        yield "GET", f"{one}/batches", self._known(self._received)
        yield "POST", f"{one}/start", self._known(self._start)
        yield "POST", f"{one}/cancel", self._known(self._cancel)
        yield "GET", f"{one}/(model|statistics|report)", self._known(self._fetch)

    def _known(self, handler: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
        def checked(request: httpx.Request, body: bytes, name: str, *more: str) -> httpx.Response:
            if name not in self.recalibrations:
                return problem(404, "not-found", f"there is no recalibration {name}")
            return handler(request, body, self.recalibrations[name], *more)

        return checked

    def _upload(self, request: httpx.Request, body: bytes) -> httpx.Response:
        if not body.startswith(self.magic):
            return problem(422, "model-invalid", "not an ONNX file")
        name = hashlib.sha256(body).hexdigest()
        new = name not in self.models
        self.models[name] = body
        return httpx.Response(201 if new else 200, json=self._describe(name))

    def _describe(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "bytes": len(self.models[name]),
            "created": NOW,
            "inputs": list(self.inputs),
            "outputs": [{"name": "y", "dtype": "float32", "shape": None}],
            "layers": [LAYER],
            "warnings": [],
        }

    def _models(self, request: httpx.Request, body: bytes) -> httpx.Response:
        items = [self._describe(name) for name in sorted(self.models)]
        return httpx.Response(200, json={"items": items, "next": None})

    def _model(self, request: httpx.Request, body: bytes, name: str) -> httpx.Response:
        if name not in self.models:
            return problem(404, "not-found", "there is no such model")
        return httpx.Response(200, json=self._describe(name))

    def _delete_model(self, request: httpx.Request, body: bytes, name: str) -> httpx.Response:
        if self.models.pop(name, None) is None:
            return problem(404, "not-found", "there is no such model")
        return httpx.Response(204)

    def _create(self, request: httpx.Request, body: bytes) -> httpx.Response:
        key = request.headers["idempotency-key"]
        if key in self.keys:
            first, name = self.keys[key]
            if first != body:
                return problem(422, "idempotency-key-reused", "the key was used otherwise")
            return httpx.Response(201, json=self._object(self.recalibrations[name]))
        wanted = json.loads(body)
        name = f"rc_{len(self.recalibrations):02x}"
        options = {name: wanted[name] for name in ("method", "estimator", "layers")}
        self.recalibrations[name] = Stored(id=name, model=wanted["model"], options=options)
        self.keys[key] = (body, name)
        return httpx.Response(201, json=self._object(self.recalibrations[name]))

    def _object(self, stored: Stored) -> dict[str, Any]:
        ended = stored.state in {"succeeded", "failed", "cancelled"}
        return {
            "id": stored.id,
            "model": stored.model,
            "state": stored.state,
            "options": stored.options,
            "batches": {
                "received": len(stored.batches),
                "samples": 0,
                "bytes": sum(map(len, stored.batches.values())),
                "total": stored.total,
            },
            "phase": "measuring" if stored.state == "running" else None,
            "progress": {"phase": "measuring", "done": 1, "total": 2}
            if stored.state == "running"
            else None,
            "error": stored.error,
            "attempts": 1,
            "created": NOW,
            "updated": NOW,
            "ended": NOW if ended else None,
        }

    def _status(self, request: httpx.Request, body: bytes, stored: Stored) -> httpx.Response:
        if "wait" in request.url.params:
            self.on_wait(float(request.url.params["wait"]))
        if stored.state in {"queued", "running"} and not self.never_ends:
            stored.asked += 1
            stored.state = "running" if stored.asked < 3 else "succeeded"
            if stored.state == "succeeded" and self.fails_with:
                stored.state, stored.error = "failed", self.fails_with
        return httpx.Response(200, json=self._object(stored))

    def _delete(self, request: httpx.Request, body: bytes, stored: Stored) -> httpx.Response:
        del self.recalibrations[stored.id]
        return httpx.Response(204)

    def _put(
        self, request: httpx.Request, body: bytes, stored: Stored, number: str
    ) -> httpx.Response:
        index = int(number)
        arrays = safetensors.numpy.load(body)
        known = stored.batches.get(index)
        if known is None and stored.state != "open":
            return problem(409, "recalibration-not-open", "the stream is sealed")
        if known is not None and known != body:
            return problem(409, "batch-conflict", "another content", batch=index)
        names = sorted(info["name"] for info in self.inputs)
        if sorted(arrays) != names:
            return problem(422, "batch-input", "wrong names", batch=index, input=min(arrays))
        stored.batches[index] = body
        return httpx.Response(
            201 if known is None else 200, json=described(index, body, arrays[names[0]].shape[0])
        )

    def _received(self, request: httpx.Request, body: bytes, stored: Stored) -> httpx.Response:
        after = int(request.url.params.get("after", -1))
        rest = [index for index in sorted(stored.batches) if index > after]
        here = rest[: self.page]
        items = [described(index, stored.batches[index], 1) for index in here]
        cursor = str(here[-1]) if len(rest) > len(here) else None
        return httpx.Response(200, json={"items": items, "next": cursor})

    def _start(self, request: httpx.Request, body: bytes, stored: Stored) -> httpx.Response:
        count = json.loads(body)["batches"]
        missing = [index for index in range(count) if index not in stored.batches]
        if count == 0:
            return problem(422, "stream-empty", "the stream is empty")
        if missing:
            return problem(409, "batches-missing", f"missing {missing}", missing=missing[:100])
        if len(stored.batches) > count:
            return problem(409, "batches-surplus", "there are more batches")
        if stored.state == "open":
            stored.state, stored.total = "queued", count
        return httpx.Response(202, json=self._object(stored))

    def _cancel(self, request: httpx.Request, body: bytes, stored: Stored) -> httpx.Response:
        stored.state = "cancelled"
        return httpx.Response(202, json=self._object(stored))

    def _fetch(
        self, request: httpx.Request, body: bytes, stored: Stored, what: str
    ) -> httpx.Response:
        if stored.state != "succeeded":
            return problem(409, "recalibration-not-finished", f"it is {stored.state}")
        if what == "statistics":
            return download(safetensors.numpy.save(statistics(stored)))
        if what == "report":
            if "text/html" in request.headers["accept"]:
                return httpx.Response(200, html="<h1>report</h1>")
            return httpx.Response(200, json={"report": 1, "stream": {"batches": stored.total}})
        variant = request.url.params["variant"]
        return download(f"{variant} {stored.model}".encode())


def statistics(stored: Stored) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Mean and variance of everything that arrived, in float64."""
    parts = [safetensors.numpy.load(body) for _, body in sorted(stored.batches.items())]
    first = min(parts[0])
    pooled = np.concatenate([part[first] for part in parts]).astype(np.float64)
    return {"bn.running_mean": pooled.mean(axis=0), "bn.running_var": pooled.var(axis=0)}


def described(index: int, body: bytes, samples: int) -> dict[str, Any]:
    """Describe one stored batch."""
    return {
        "index": index,
        "samples": samples,
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }


def download(content: bytes) -> httpx.Response:
    """Answer with bytes and their digest."""
    return httpx.Response(200, headers={"Content-Digest": digest(content)}, content=content)


def digest(body: bytes) -> str:
    """Content-Digest of a body."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def problem(
    status: int, code: str, detail: str, *, headers: dict[str, str] | None = None, **members: object
) -> httpx.Response:
    """Answer with an RFC 9457 problem."""
    body = {
        "type": f"urn:bnrecal:problem:{code}",
        "title": code,
        "status": status,
        "detail": detail,
        "code": code,
        "error": detail,
        "instance": "urn:bnrecal:request:0",
        **members,
    }
    media = {"Content-Type": "application/problem+json", **(headers or {})}
    return httpx.Response(status, headers=media, content=json.dumps(body))
