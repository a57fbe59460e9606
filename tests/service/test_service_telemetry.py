from __future__ import annotations

import hashlib
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import metrics_endpoint as figures
from service.telemetry.metrics import Counter, Gauge, Histogram, Metrics
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, StartServer, batch, safetensors

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(api: Api) -> Figures:
    """Return every sample of `/metrics` by name and labels, as Prometheus' own parser reads it."""
    response = api.http.get("/metrics")
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    found: Figures = {}
    for family in text_string_to_metric_families(response.text):
        assert family.type != "unknown"
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found
            found[key] = sample.value
    return found


def test_metrics_count_what_happens(api: Api, executor: FakeExecutor) -> None:
    name = api.finished(batches=3)
    executor.refusal = "layer-not-finite"
    failed = api.open()
    api.put(failed, 0)
    api.start(failed, 1)
    api.wait(failed)
    failure = ("bnrecal_failures_total", (("code", "layer-not-finite"),))
    # Figures of a run are noted just after its state.
    while failure not in (found := read(api)):
        pass
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
    # The batches are gone with their runs; what the model holds is left.
    model = api.http.get("/v1/models").json()["items"][0]
    assert found["bnrecal_stored_bytes", ()] in {model["bytes"], model["bytes"] + size // 4}
    assert name not in api.http.get("/metrics").text


def test_what_is_under_way_is_told(api: Api, executor: FakeExecutor) -> None:
    executor.hold = True
    name = api.open()
    api.put(name, 0)
    api.start(name, 1)
    api.wait(name, "running")
    listener = threading.Thread(target=lambda: api.get(name, "/events"))
    listener.start()
    while read(api)["bnrecal_event_streams", ()] != 1:
        pass
    found = read(api)
    assert found["bnrecal_running", ()] == 1
    assert found["bnrecal_requests_open", ()] == 2  # the stream, and this one
    api.http.post(f"/v1/recalibrations/{name}/cancel")
    listener.join(10)
    found = read(api)
    assert (found["bnrecal_running", ()], found["bnrecal_event_streams", ()]) == (0, 0)
    assert found["bnrecal_requests_open", ()] == 1


def test_everything_that_is_documented_is_told_from_the_start(api: Api) -> None:
    text = api.http.get("/metrics").text
    for family in (*Metrics().families(), *figures.GAUGES):
        assert f"# HELP {family.name} {family.text}\n" in text
        assert f"# TYPE {family.name} {family.kind}\n" in text
    found = read(api)
    for part in ("ledger", "blobs"):
        assert found["bnrecal_storage_failed", (("part", part),)] == 0
    assert 0 < found["process_resident_memory_bytes", ()] < 1 << 34
    assert found["bnrecal_disk_free_bytes", ()] > 0


def test_a_rise_of_one_byte_can_be_seen_in_a_large_total() -> None:
    found = Counter("c", "text")
    found.add(123_456_789_012_345)
    found.add(1)
    assert list(found.lines())[-1] == "c 123456789012346"


def test_labels_do_not_grow_with_what_strangers_ask_for(api: Api) -> None:
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


def test_with_tokens_a_stranger_reads_no_figures(start_server: StartServer) -> None:
    api = start_server(tokens=hashlib.sha256(b"secret").hexdigest())
    assert api.http.get("/metrics").status_code == 401
    right = {"Authorization": "Bearer secret"}
    assert api.http.get("/metrics", headers=right).status_code == 200


def test_a_label_that_was_not_declared_is_a_fault() -> None:
    with pytest.raises(AssertionError):
        Counter("c", "text", "code").add(1, cod="x")


def test_a_histogram_is_cumulative() -> None:
    found = Histogram("h", "text")
    for seconds in (0.0005, 0.004, 0.004, 9999.0):
        found.observe(seconds)
    lines = list(found.lines())
    assert 'h_bucket{le="0.001"} 1' in lines
    assert 'h_bucket{le="0.005"} 3' in lines
    assert 'h_bucket{le="3600.0"} 3' in lines
    assert 'h_bucket{le="+Inf"} 4' in lines
    assert "h_count 4" in lines


def test_labels_are_escaped() -> None:
    found = Counter("c", "text", "path")
    found.add(2, path='a"b\\c\nd')
    assert list(found.lines())[-1] == 'c{path="a\\"b\\\\c\\nd"} 2'


def test_a_gauge_shows_what_it_is_given_and_stays_as_it_was() -> None:
    found = Gauge("g", "text", "state")
    assert list(found.showing({"open": 7.0}).lines())[-1] == 'g{state="open"} 7'
    assert len(list(found.lines())) == 2


def test_the_server_tells_that_it_lives_and_what_is_in_force(api: Api) -> None:
    assert api.http.get("/healthz").json() == {"status": "ok"}
    found = api.http.get("/readyz").json()
    assert (found["status"], found["failures"]) == ("ready", [])
    assert found["workers"] == {"fake": True}


def test_the_page_of_routes_lists_them_without_any_script(api: Api) -> None:
    page = api.http.get("/docs").text
    for path in api.http.get("/openapi.json").json()["paths"]:
        assert path in page
    assert "<script" not in page
    assert "`" not in page


def test_who_asks_for_no_route_is_told_where_they_stand(api: Api) -> None:
    assert api.http.get("/").json()["detail"] == "there is no GET /; /docs lists the routes"
