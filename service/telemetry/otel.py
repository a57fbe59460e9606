"""Traces and metrics for OpenTelemetry, by its usual environment variables; needs the extra `otel`.

All requests about a recalibration, and its runs, are in one trace, in whatever process they happen:
a request continues the trace of its `traceparent` header; without one, the trace id is that of the
recalibration, whose id has the same 128 bits. The span of the request that starts a recalibration
is stored with it, so that a runner on another machine continues it.

Nothing global is set, so other libraries in the process are not traced.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context as SpanContext
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
)
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client import CollectorRegistry
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bn_ops.core.version import __version__
from service.telemetry.logs import current_ids
from service.telemetry.metric_export import metrics_data
from service.telemetry.metrics import METHODS, OTHER
from service.telemetry.tracing import RunTrace, Telemetry

__all__ = ["OtelTelemetry", "UnsupportedExporterError"]

_log = logging.getLogger(__name__)
_PROPAGATOR = TraceContextTextMapPropagator()
_RECALIBRATION = re.compile(r"(?:^|/)rc_([0-9a-f]{32})(?:/|$)")
_PROTOCOL = "http/protobuf"
_INTERVAL_MS = 60_000
_SERVER_FAULT = 500
# The worker that names them has parsed an untrusted model.
_MAX_PHASES = 50
_MAX_NAME = 50

# The id of a trace that begins in this context; None for a random one.
_trace_id: ContextVar[int | None] = ContextVar("trace_id", default=None)


class UnsupportedExporterError(Exception):
    """The environment asks for an exporter that this package does not have."""


class _TraceIds(RandomIdGenerator):
    """Gives the first span of a recalibration's trace the id of the recalibration."""

    def generate_trace_id(self) -> int:
        """Return the id of a new trace."""
        return _trace_id.get() or super().generate_trace_id()


class OtelTelemetry(Telemetry):
    """Reports to OpenTelemetry.

    Args:
        spans: exports spans; None for no traces.
        metrics: exports metrics; None for none.
        interval_seconds: time between two exports of metrics.
        immediately: whether each span is exported as soon as it ends, for tests.
    """

    def __init__(
        self,
        *,
        spans: SpanExporter | None = None,
        metrics: MetricExporter | None = None,
        interval_seconds: float = _INTERVAL_MS / 1000,
        immediately: bool = False,
    ) -> None:
        self._resource = _resource()
        self._provider: TracerProvider | None = None
        self._tracer: trace.Tracer = trace.NoOpTracer()
        if spans is not None:
            # The sampler and the limits of spans are those of the environment.
            self._provider = TracerProvider(resource=self._resource, id_generator=_TraceIds())
            kind = SimpleSpanProcessor if immediately else BatchSpanProcessor
            self._provider.add_span_processor(kind(spans))
            self._tracer = self._provider.get_tracer("bnrecal", __version__)
        self._metrics = metrics
        self._interval = interval_seconds

    @classmethod
    def of(cls, signals: Sequence[str], environment: Mapping[str, str]) -> OtelTelemetry:
        """Return the telemetry that the environment asks for.

        Args:
            signals: `TRACES`, `METRICS` or both.
            environment: the variables; what is not read here, the exporters read from the process.

        Raises:
            UnsupportedExporterError: an exporter or a protocol is not supported.
        """
        kinds: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
            "TRACES": (OTLPSpanExporter, ConsoleSpanExporter),
            "METRICS": (OTLPMetricExporter, ConsoleMetricExporter),
        }
        made = {
            signal: _exporter(signal, environment, *kinds[signal])
            for signal in kinds
            if signal in signals
        }
        interval = environment.get("OTEL_METRIC_EXPORT_INTERVAL", "").strip()
        milliseconds = int(interval) if interval.isdecimal() and int(interval) else _INTERVAL_MS
        return cls(
            spans=made.get("TRACES"),
            metrics=made.get("METRICS"),
            interval_seconds=milliseconds / 1000,
        )

    @property
    def middleware(self) -> Callable[[ASGIApp], ASGIApp] | None:
        """Return the middleware that traces requests, where there are traces."""
        return None if self._provider is None else partial(_TracingMiddleware, telemetry=self)

    @property
    def log_ids(self) -> Mapping[str, object]:
        """Return trace id and span id of the current span."""
        found = trace.get_current_span().get_span_context()
        if not found.is_valid:
            return {}
        return {
            "trace_id": trace.format_trace_id(found.trace_id),
            "span_id": trace.format_span_id(found.span_id),
        }

    def traceparent(self) -> str | None:
        """Return the current span as a W3C `traceparent`."""
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier.get("traceparent")

    @contextmanager
    def request(
        self, name: str, headers: Mapping[str, str], attributes: Mapping[str, str]
    ) -> Iterator[trace.Span]:
        """Trace a request, in the trace that its headers or its path name."""
        with self._span(
            name,
            headers,
            _id_in(attributes["url.path"]),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
        ) as span:
            yield span

    @contextmanager
    def run(
        self, recalibration_id: str, traceparent: str | None, ids: Mapping[str, str | int]
    ) -> Iterator[RunTrace]:
        """Trace a run, in the trace of the request that started it."""
        carrier = {} if traceparent is None else {"traceparent": traceparent}
        with self._span(
            "recalibration run",
            carrier,
            _id_in(recalibration_id),
            kind=trace.SpanKind.CONSUMER,
            attributes={f"bnrecal.{name}": value for name, value in ids.items()},
        ) as span:
            run = _OtelRun(self._tracer, span)
            try:
                yield run
            finally:
                run.end()

    @contextmanager
    def _span(
        self, name: str, carrier: Mapping[str, str], trace_id: int | None, **options: Any
    ) -> Iterator[trace.Span]:
        parent = _PROPAGATOR.extract(carrier, context=SpanContext())
        token = _trace_id.set(trace_id)
        try:
            span = self._tracer.start_span(name, context=parent, **options)
        finally:
            _trace_id.reset(token)
        with trace.use_span(span, end_on_exit=True):
            yield span

    async def export_metrics(
        self, registry: CollectorRegistry, refresh: Callable[[], Awaitable[object]]
    ) -> None:
        """Export the metrics at the interval of the environment until cancelled."""
        if self._metrics is None:
            return
        started = time.time_ns()
        while True:
            await asyncio.sleep(self._interval)
            try:
                await refresh()
                data = metrics_data(registry, self._resource, started=started, now=time.time_ns())
                await asyncio.to_thread(self._metrics.export, data)
            except Exception as error:  # noqa: BLE001 - no failure of an export may end the exports
                _log.warning(
                    "Metrics were not exported: %s", error, extra={"action": "telemetry-failed"}
                )

    def close(self) -> None:
        """Export the remaining spans; blocks as long as the variables of the exporter allow."""
        if self._provider is not None:
            self._provider.shutdown()
        if self._metrics is not None:
            self._metrics.shutdown()


def _resource() -> Resource:
    """Return what all data are about: the resource of the environment, named if it has no name."""
    found = Resource.create({"service.version": __version__})
    if str(found.attributes.get("service.name", "")).startswith("unknown_service"):
        return found.merge(Resource({"service.name": "bnrecal"}))
    return found


def _exporter(
    signal: str,
    environment: Mapping[str, str],
    otlp: Callable[[], Any],
    console: Callable[[], Any],
) -> Any:
    name = environment.get(f"OTEL_{signal}_EXPORTER", "").strip().lower() or "otlp"
    if name == "console":
        return console()
    if name != "otlp":
        raise UnsupportedExporterError(f"OTEL_{signal}_EXPORTER is {name!r}: use otlp or console")
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := environment.get(variable, "").strip():
            if protocol != _PROTOCOL:
                raise UnsupportedExporterError(f"{variable} is {protocol!r}: use {_PROTOCOL}")
            break
    return otlp()


def _id_in(text: str) -> int | None:
    """Return the trace id of the recalibration that a path names, if any."""
    found = _RECALIBRATION.search(text)
    return None if found is None else int(found[1], 16) or None


class _OtelRun(RunTrace):
    """The span of a run, with a child for each phase, made of what the worker reports.

    Shards, which last for several phases, are children too.
    """

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._name = ""
        self._phase: trace.Span | None = None
        self._left = _MAX_PHASES
        self._shards: dict[int, trace.Span] = {}

    def phase(self, name: str) -> None:
        if name == self._name or not self._left:
            return
        self._end_phase()
        self._left -= 1
        self._name, self._phase = name, self._child(f"run: {name[:_MAX_NAME]}")

    def shard_began(self, shard: int, samples: int) -> None:
        self.shard_ended(shard)
        self._shards[shard] = self._child("run: shard")
        self._shards[shard].set_attributes({"bnrecal.shard": shard, "bnrecal.samples": samples})

    def shard_ended(self, shard: int, lost: str | None = None) -> None:
        span = self._shards.pop(shard, None)
        if span is None:
            return
        if lost is not None:
            span.set_status(trace.StatusCode.ERROR, lost)
        span.end()

    def ended(self, state: str, verdict: str | None) -> None:
        self._span.set_attribute("bnrecal.state", state)
        if verdict is not None:
            self._span.set_attribute("bnrecal.verdict", verdict)
        if state == "failed":
            self._span.set_status(trace.StatusCode.ERROR)

    def end(self) -> None:
        """End the current phase and all shards."""
        self._end_phase()
        for shard in list(self._shards):
            self.shard_ended(shard)

    def _child(self, name: str) -> trace.Span:
        return self._tracer.start_span(name, context=trace.set_span_in_context(self._span))

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._phase.end()
        self._name, self._phase = "", None


class _TracingMiddleware:
    """Traces every request; the outermost middleware of this package."""

    def __init__(self, app: ASGIApp, *, telemetry: OtelTelemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request within a span."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else OTHER
        attributes = {"http.request.method": method, "url.path": scope["path"]}
        status = _SERVER_FAULT

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._telemetry.request(method, Headers(scope=scope), attributes) as span:
            # Never reset: each request is a task of its own.
            current_ids.set({**current_ids.get(), **self._telemetry.log_ids})
            try:
                await self._app(scope, receive, note)
            finally:
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
                span.set_attribute("http.response.status_code", status)
                if request_id := scope.get("state", {}).get("request_id"):
                    span.set_attribute("bnrecal.request_id", request_id)
                if status >= _SERVER_FAULT:
                    span.set_status(trace.StatusCode.ERROR)
