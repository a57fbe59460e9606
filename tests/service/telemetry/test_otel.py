"""Traces and metrics for OpenTelemetry: one trace for a recalibration, and nothing by default."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.app import create_app
from service.settings import Settings
from service.telemetry import tracing
from service.telemetry.metric_export import metrics_data
from service.telemetry.metrics import Metrics
from service.telemetry.otel import OtelTelemetry
from service.telemetry.tracing import Telemetry, is_on, open_telemetry
from tests.service.telemetry.test_logs import Lines, lines
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api
from tests.support.service_loop import serving
from tests.support.waiting import until

__all__ = ["lines"]

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


class Traced(Api):
    """A traced server in this process.

    Attributes:
        spans: what it has exported.
    """

    def __init__(self, api: Api, exporter: InMemorySpanExporter) -> None:
        super().__init__(api.http)
        self._exporter = exporter

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> ReadableSpan:
        """Return the span of a name, once it has ended."""
        until(lambda: any(s.name == name for s in self.spans), lambda: f"there is no span {name}")
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def recalibrate(self, headers: dict[str, str] | None = None) -> str:
        name = self.open()
        for index in range(2):
            assert self.put(name, index, headers=headers).status_code == 201
        started = self.http.post(
            f"/v1/recalibrations/{name}/start", json={"batches": 2}, headers=headers
        )
        assert started.status_code == 202
        assert self.wait(name)["state"] == "succeeded"
        return name


@pytest.fixture
def traced(settings: Settings, executor: FakeExecutor) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    telemetry = OtelTelemetry(spans=exporter, immediately=True)
    with serving(create_app(settings, executor=executor, telemetry=telemetry)) as http:
        yield Traced(Api(http), exporter)


def trace_of(span: ReadableSpan) -> str:
    return f"{span.context.trace_id:032x}"


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def statuses(traced: Traced) -> list[object]:
    """Return the statuses of all requests, in order."""
    found = [span.attributes or {} for span in traced.spans]
    return [one["http.response.status_code"] for one in found if "http.route" in one]


PUT = "PUT /v1/recalibrations/{recalibration}/batches/{index}"
START = "POST /v1/recalibrations/{recalibration}/start"


def test_a_recalibration_is_one_trace_with_its_id(traced: Traced) -> None:
    name = traced.recalibrate()
    run = traced.named("recalibration run")
    start = traced.named(START)
    puts = [span for span in traced.spans if span.name == PUT]
    assert len(puts) == 2
    assert {trace_of(span) for span in (*puts, start, run)} == {name.removeprefix("rc_")}
    assert parent_of(run) == start.context.span_id
    assert run.attributes is not None
    assert run.attributes["bnrecal.recalibration"] == name
    assert run.attributes["bnrecal.state"] == "succeeded"
    phases = [span for span in traced.spans if parent_of(span) == run.context.span_id]
    assert [span.name for span in phases] == [
        "run: preparing",
        "run: reading",
        "run: verifying",
        "run: storing",
    ]
    for earlier, later in pairwise(phases):
        assert earlier.end_time is not None
        assert later.start_time is not None
        assert earlier.end_time <= later.start_time


def test_the_trace_of_a_client_is_continued(traced: Traced) -> None:
    traced.recalibrate(TRACEPARENT)
    run = traced.named("recalibration run")
    start = traced.named(START)
    puts = [span for span in traced.spans if span.name == PUT]
    assert {trace_of(span) for span in (*puts, start, run)} == {TRACE}
    assert {parent_of(span) for span in (*puts, start)} == {int(PARENT, 16)}
    assert parent_of(run) == start.context.span_id


@pytest.mark.parametrize("value", ["", "00-0-0-01", "x" * 1000, "00-" + "0" * 32 + "-1-01"])
def test_invalid_headers_are_ignored(traced: Traced, value: str) -> None:
    name = traced.open()
    assert traced.put(name, 0, headers={"traceparent": value}).status_code == 201
    assert trace_of(traced.named(PUT)) == name.removeprefix("rc_")


def test_failures_are_marked(traced: Traced, executor: FakeExecutor) -> None:
    executor.refusal = "batch-not-finite"
    name = traced.open()
    traced.put(name, 0)
    traced.start(name, 1)
    assert traced.wait(name)["state"] == "failed"
    run = traced.named("recalibration run")
    assert run.attributes is not None
    assert (run.status.is_ok, run.attributes["bnrecal.state"]) == (False, "failed")
    assert traced.http.get("/v1/recalibrations/rc_none").status_code == 404
    until(lambda: statuses(traced)[-1] == 404, lambda: "there is no span")


def test_spans_and_log_lines_name_each_other(traced: Traced, lines: Lines) -> None:
    name = traced.recalibrate()
    put = next(span for span in traced.spans if span.name == PUT)
    assert put.attributes is not None
    (line,) = lines.of(action="request", request_id=put.attributes["bnrecal.request_id"])
    assert line["span_id"] == f"{put.context.span_id:016x}"
    assert line["trace_id"] == trace_of(put)
    (started,) = lines.of(action="run-started", recalibration=name)
    assert started["span_id"] == f"{traced.named('recalibration run').context.span_id:016x}"


def test_lines_have_ids_without_traces(api: Api, lines: Lines) -> None:
    name = api.finished()
    requests = lines.of(action="request", recalibration=name)
    assert all(line["request_id"] and "trace_id" not in line for line in requests)
    assert any(line["route"].endswith("/start") for line in requests)
    logging.getLogger("outside").warning("not of a run")
    (outside,) = lines.of(message="not of a run")
    assert "recalibration" not in outside


def test_every_line_of_a_run_has_its_ids(
    api: Api, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeExecutor.run

    async def logging_run(*args: object) -> object:
        logging.getLogger("a library").warning("inside a run")
        return await run(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeExecutor, "run", logging_run)
    name = api.finished()
    (line,) = lines.of(message="inside a run")
    assert (line["recalibration"], line["attempt"], line["claim"]) == (name, 1, 1)


def test_shards_are_children_of_their_run() -> None:
    exporter = InMemorySpanExporter()
    telemetry = OtelTelemetry(spans=exporter, immediately=True)
    with telemetry.run(f"rc_{TRACE}", None, {}) as run:
        run.phase("reading")
        for shard in (0, 1):
            run.shard_began(shard, 64 + shard)
        run.shard_ended(0, "killed")
        run.shard_began(0, 64)
        run.phase("measuring")
        run.shard_ended(0)
        run.shard_ended(0)  # has no effect when repeated
    spans = exporter.get_finished_spans()
    (whole,) = (span for span in spans if span.name == "recalibration run")
    shards = [span for span in spans if span.name == "run: shard"]
    assert {trace_of(span) for span in spans} == {TRACE}
    assert {parent_of(span) for span in shards} == {whole.context.span_id}
    found = [(dict(span.attributes or {}), span.status.description) for span in shards]
    assert found == [
        ({"bnrecal.shard": 0, "bnrecal.samples": 64}, "killed"),
        ({"bnrecal.shard": 0, "bnrecal.samples": 64}, None),
        ({"bnrecal.shard": 1, "bnrecal.samples": 65}, None),
    ]


def test_worker_cannot_flood_a_trace() -> None:
    exporter = InMemorySpanExporter()
    telemetry = OtelTelemetry(spans=exporter, immediately=True)
    with telemetry.run("rc_" + "1" * 32, None, {}) as run:
        for index in range(1000):
            run.phase(f"{index} " + "x" * 10_000)
    assert len(exporter.get_finished_spans()) <= 51
    assert max(len(span.name) for span in exporter.get_finished_spans()) < 100
    telemetry.close()


class Collected(MetricExporter):
    """Keeps the last export."""

    def __init__(self) -> None:
        super().__init__()
        self.data: list[MetricsData] = []
        self.fail = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 1, **kwargs: object
    ) -> MetricExportResult:
        del timeout_millis, kwargs
        if self.fail:
            self.fail = False
            raise OSError("the collector is not there")
        self.data.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 1) -> bool:
        return bool(timeout_millis)

    def shutdown(self, timeout_millis: float = 1, **kwargs: object) -> None:
        del timeout_millis, kwargs


def values(data: MetricsData) -> dict[str, object]:
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    return {metric.name: metric.data for metric in scope.metrics}


def test_metrics_are_those_of_prometheus(settings: Settings, executor: FakeExecutor) -> None:
    collected = Collected()
    collected.fail = True  # an export that fails does not end the exports
    telemetry = OtelTelemetry(metrics=collected, interval_seconds=0.05)
    with serving(create_app(settings, executor=executor, telemetry=telemetry)) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
        until(lambda: len(collected.data) > 1, lambda: "nothing is exported")
        count = len(collected.data)
        until(lambda: len(collected.data) > count + 1, lambda: "exports end")
    found = json.loads(collected.data[-1].to_json())
    (resource,) = found["resource_metrics"]
    assert resource["resource"]["attributes"]["service.name"] == "bnrecal"
    (scope,) = resource["scope_metrics"]
    metrics = {metric["name"]: metric["data"] for metric in scope["metrics"]}
    (batches,) = metrics["bnrecal_ingest_batches"]["data_points"]
    assert batches["value"] == 1
    assert metrics["bnrecal_ingest_batches"]["is_monotonic"]
    states = metrics["bnrecal_recalibrations"]["data_points"]
    assert {"state": "open"} in [point["attributes"] for point in states]
    put = next(
        point
        for point in metrics["bnrecal_request_seconds"]["data_points"]
        if point["attributes"]["method"] == "PUT"
    )
    assert put["count"] == 1
    assert sum(put["bucket_counts"]) == 1
    assert len(put["bucket_counts"]) == len(put["explicit_bounds"]) + 1


def test_buckets_are_counts_between_bounds() -> None:
    metrics = Metrics()
    for seconds in (0.0005, 0.003, 0.004, 7000.0):
        metrics.commit_seconds.observe(seconds)
    data = metrics_data(metrics.registry, Resource.get_empty(), started=1, now=2)
    histogram: object = values(data)["bnrecal_ledger_commit_seconds"]
    (point,) = histogram.data_points  # type: ignore[attr-defined]
    assert (point.count, point.bucket_counts[:2], point.bucket_counts[-1]) == (4, [1, 2], 1)
    assert point.sum == pytest.approx(7000.0075)
    assert point.explicit_bounds[-1] == 3600.0


@pytest.mark.parametrize(
    ("environment", "traces", "metrics"),
    [
        ({}, False, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, True, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "true"}, False, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, True, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_METRICS_EXPORTER": "none"}, True, False),
        ({"OTEL_METRICS_EXPORTER": "console"}, False, True),
        ({"OTEL_SERVICE_NAME": "x"}, False, False),
    ],
)
def test_variables_decide(environment: dict[str, str], *, traces: bool, metrics: bool) -> None:
    assert (is_on("TRACES", environment), is_on("METRICS", environment)) == (traces, metrics)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER is 'zipkin'"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'",
        ),
    ],
)
def test_unsupported_exporters_are_a_warning(
    environment: dict[str, str], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert type(open_telemetry(environment)) is Telemetry
    assert message in caplog.text


def test_a_missing_package_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "find_spec", lambda _name: None)
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector"}
    assert type(open_telemetry(environment)) is Telemetry
    assert "bnrecal[otel]" in caplog.text
    caplog.clear()
    assert type(open_telemetry({})) is Telemetry
    assert caplog.text == ""


def test_console_exporters_are_made() -> None:
    environment = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console"}
    found = open_telemetry(environment)
    assert isinstance(found, OtelTelemetry)
    assert found.middleware is not None
    found.close()


def test_nothing_is_installed_by_default(settings: Settings) -> None:
    names = [str(one.cls) for one in create_app(settings).user_middleware]
    assert not any("Tracing" in name for name in names)
    assert Telemetry().traceparent() is None
