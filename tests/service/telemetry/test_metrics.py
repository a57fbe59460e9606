from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.metrics import Metrics
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, StartServer, batch, safetensors
from tests.support.waiting import until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(api: Api) -> Samples:
    """Return every sample of `/metrics` by name and labels, parsed by Prometheus' own parser."""
    response = api.http.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found: Samples = {}
    for family in text_string_to_metric_families(response.text):
        assert family.type != "unknown"
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def test_counters(api: Api, executor: FakeExecutor) -> None:
    name = api.finished(batches=3)
    executor.refusal = "layer-not-finite"
    failed = api.open()
    api.put(failed, 0)
    api.start(failed, 1)
    api.wait(failed)
    failure = ("bnrecal_failures_total", (("code", "layer-not-finite"),))
    # The samples of a run are recorded just after its state.
    until(lambda: failure in read(api))
    found = read(api)
    size = 4 * len(safetensors(x=batch()))
    assert found["bnrecal_ingest_bytes_total", ()] == size
    assert found["bnrecal_ingest_batches_total", ()] == 4
    assert found[failure] == 1
    for state, count in (("succeeded", 1), ("failed", 1), ("queued", 0), ("open", 0)):
        assert found["bnrecal_recalibrations", (("state", state),)] == count
        assert found.get(("bnrecal_run_seconds_count", (("state", state),)), 0) == count
    put = (("method", "PUT"), ("route", "/v1/recalibrations/{recalibration}/batches/{index}"))
    assert found["bnrecal_requests_total", (*put, ("status", "201"))] == 4
    assert found["bnrecal_request_seconds_count", put] == 4
    assert found["bnrecal_ledger_commit_seconds_count", ()] > 4
    # The batches are removed after their runs; the model is left.
    model = api.http.get("/v1/models").json()["items"][0]
    assert found["bnrecal_stored_bytes", ()] in {model["bytes"], model["bytes"] + size // 4}
    assert name not in api.http.get("/metrics").text


def test_gauges(api: Api, executor: FakeExecutor) -> None:
    executor.hold = True
    name = api.open()
    api.put(name, 0)
    api.start(name, 1)
    api.wait(name, "running")
    listener = threading.Thread(target=lambda: api.get(name, "/events"))
    listener.start()
    until(lambda: read(api)["bnrecal_event_streams", ()] == 1)
    found = read(api)
    assert found["bnrecal_running", ()] == 1
    assert found["bnrecal_requests_open", ()] == 2  # the event stream, and this request
    api.http.post(f"/v1/recalibrations/{name}/cancel")
    listener.join(60)
    found = read(api)
    assert (found["bnrecal_running", ()], found["bnrecal_event_streams", ()]) == (0, 0)
    assert found["bnrecal_requests_open", ()] == 1


def test_documented_metrics_are_exported(api: Api) -> None:
    text = api.http.get("/metrics").text
    page = (Path(__file__).parents[3] / "docs" / "service.md").read_text()
    names = re.findall(r"^# HELP (\S+) ", text, re.MULTILINE)
    assert {name for name in names if f"| `{name}` |" in page} == set(names)
    assert set(Metrics().labels) < set(names)
    found = read(api)
    for part in ("ledger", "blobs"):
        assert found["bnrecal_storage_failed", (("part", part),)] == 0
    assert 0 < found["process_resident_memory_bytes", ()] < 1 << 34
    assert found["bnrecal_disk_free_bytes", ()] > 0


def test_large_totals_are_exact() -> None:
    metrics = Metrics()
    metrics.ingest_bytes.inc(123_456_789_012_345)
    metrics.ingest_bytes.inc(1)
    (sample,) = (
        sample
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name == "bnrecal_ingest_bytes_total"
    )
    assert sample.value == 123_456_789_012_346


def test_registries_are_independent() -> None:
    first, second = Metrics(), Metrics()
    first.ingest_batches.inc()
    assert b"bnrecal_ingest_batches_total 1.0" in first.render()
    assert b"bnrecal_ingest_batches_total 0.0" in second.render()


def test_label_values_are_bounded(api: Api) -> None:
    for number in range(5):
        api.http.get(f"/nothing/{number}")
        api.http.request(f"BREW{number}", "/v1/models")
    series = {key: value for key, value in read(api).items() if key[0] == "bnrecal_requests_total"}
    labels = [dict(key[1]) for key in series]
    assert {one["method"] for one in labels} <= {"GET", "(other)"}
    assert {one["route"] for one in labels} <= {"(none)", "/v1/models", "/metrics"}
    unrouted = (("method", "GET"), ("route", "(none)"), ("status", "404"))
    assert series["bnrecal_requests_total", unrouted] == 5
    problems = {
        key: value for key, value in read(api).items() if key[0] == "bnrecal_problems_total"
    }
    assert {dict(key[1])["code"]: value for key, value in problems.items()} == {
        "not-found": 5,
        "method-not-allowed": 5,
    }


def test_metrics_require_a_token(start_server: StartServer) -> None:
    api = start_server(tokens=hashlib.sha256(b"secret").hexdigest())
    assert api.http.get("/metrics").status_code == 401
    right = {"Authorization": "Bearer secret"}
    assert api.http.get("/metrics", headers=right).status_code == 200


def test_health_and_readiness(api: Api) -> None:
    assert api.http.get("/healthz").json() == {"status": "ok"}
    found = api.http.get("/readyz").json()
    assert (found["status"], found["failures"]) == ("ready", [])
    assert found["workers"] == {"fake": True}


def test_unknown_path_mentions_docs(api: Api) -> None:
    detail = api.http.get("/v1").json()["detail"]
    assert detail == "no route matches GET /v1; /docs lists the routes"
