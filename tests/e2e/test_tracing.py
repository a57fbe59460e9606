"""A server and a runner in processes of their own send one trace to a collector."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.service_http import safetensors
from tests.support.service_process import images, network, running
from tests.support.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
PHASES = ("reading", "measuring", "choosing", "folding", "verifying")
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


class Collector(ThreadingHTTPServer):
    """Receives OTLP over HTTP.

    Attributes:
        spans: the spans received, each with the name of its service.
        metrics: the names of the metrics received.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[tuple[str, Span]] = []
        self.metrics: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def named(self, name: str) -> list[tuple[str, Span]]:
        return [one for one in self.spans if one[1].name == name]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v1/traces":
            for part in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {one.key: one.value.string_value for one in part.resource.attributes}
                for scope in part.scope_spans:
                    self.server.spans += [(names["service.name"], span) for span in scope.spans]
        else:
            for found in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for group in found.scope_metrics:
                    self.server.metrics |= {metric.name for metric in group.metrics}
                    for metric in group.metrics:
                        assert not any(p.HasField("min") for p in metric.histogram.data_points)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as in the base class
        del format, args


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as found:
        Thread(target=found.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
        yield found
        found.shutdown()


@contextmanager
def runner(data: Path) -> Iterator[None]:
    """Run a runner with a name of its own."""
    passed = {key: value for key, value in os.environ.items() if key.startswith("OTEL_")}
    environment = {"PATH": os.environ["PATH"], **passed, "OTEL_SERVICE_NAME": "the-runner"}
    environment |= {"BNRECAL_POLL_SECONDS": "0.2", "BNRECAL_WORKER_THREADS": "1"}
    environment |= {"BNRECAL_SHARDS": "2", "BNRECAL_RUNS_MEMORY_BYTES": str(1 << 40)}
    words = [sys.executable, "-m", "service", "--runner", "--data-dir", str(data)]
    with (data.parent / "runner.log").open("wb") as log:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
        )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "bnrecal runner is ready\n"
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        if process.stdout is not None:
            process.stdout.close()


def test_a_runner_continues_the_trace_of_the_server(tmp_path: Path, collector: Collector) -> None:
    data = tmp_path / "data"
    settings = {"max_concurrent_runs": 0, "poll_seconds": 0.2, "worker_threads": 1}
    with running(data, **settings) as server, runner(data):
        name = server.api.open(network())
        for index in range(3):
            body = safetensors(x=images(index, samples=64))
            assert server.api.put(name, index, body, headers=HEADERS).status_code == 201
        started = server.http.post(
            f"/v1/recalibrations/{name}/start", json={"batches": 3}, headers=HEADERS
        )
        assert started.status_code == 202
        assert server.api.wait(name)["state"] == "succeeded"
        until(lambda: bool(collector.named("recalibration run")), lambda: "no run was traced")
        until(lambda: "bnrecal_ingest_batches" in collector.metrics, lambda: "no metrics")
    ((service, run),) = collector.named("recalibration run")
    ((_, start),) = collector.named("POST /v1/recalibrations/{recalibration}/start")
    puts = collector.named("PUT /v1/recalibrations/{recalibration}/batches/{index}")
    assert service == "the-runner"
    assert {one for one, _ in puts} == {"bnrecal"}
    assert len(puts) == 3
    assert {span.trace_id.hex() for span in (run, start, *(span for _, span in puts))} == {TRACE}
    assert run.parent_span_id == start.span_id
    children = [span for _, span in collector.spans if span.parent_span_id == run.span_id]
    shards = [span for span in children if span.name == "run: shard"]
    assert sorted(one.int_value for span in shards for one in _values(span, "samples")) == [64, 128]
    phases = [span for span in children if span not in shards]
    names = [span.name for span in sorted(phases, key=lambda span: span.start_time_unix_nano)]
    # The worker reports at intervals, so that short phases may be missing.
    assert names[0] == "run: preparing"
    assert {f"run: {name}" for name in PHASES} & set(names)
    assert names[-1] == "run: storing"
    assert {span.trace_id.hex() for span in children} == {TRACE}


def _values(span: Span, name: str) -> list[AnyValue]:
    """Return the values of an attribute."""
    return [one.value for one in span.attributes if one.key == f"bnrecal.{name}"]


def test_a_collector_that_is_missing_delays_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with running(tmp_path / "data", worker_threads=1) as server:
        name = server.api.open(network())
        assert server.api.put(name, 0, safetensors(x=images(0))).status_code == 201
        assert server.api.start(name, 1).status_code == 202
        assert server.api.wait(name)["state"] == "succeeded"
