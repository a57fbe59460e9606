from __future__ import annotations

import json
import logging

from service.telemetry.logs import JsonFormatter
from service.telemetry.metrics import Counter, Gauge, Histogram
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, batch, safetensors


def test_metrics_count_what_happens(api: Api, executor: FakeExecutor) -> None:
    name = api.finished(batches=3)
    executor.refusal = "layer-not-finite"
    failed = api.open()
    api.put(failed, 0)
    api.start(failed, 1)
    api.wait(failed)
    # Figures of a run are noted just after its state.
    while 'code="layer-not-finite"' not in (text := api.http.get("/metrics").text):
        pass
    lines = text.splitlines()
    assert f"bnrecal_ingest_bytes_total {4 * len(safetensors(x=batch()))}" in lines
    assert "bnrecal_ingest_batches_total 4" in lines
    assert 'bnrecal_failures_total{code="layer-not-finite"} 1' in lines
    assert 'bnrecal_recalibrations{kind="succeeded"} 1' in lines
    assert 'bnrecal_recalibrations{kind="queued"} 0' in lines
    route = 'route="/v1/recalibrations/{recalibration}/batches/{index}"'
    assert f'bnrecal_requests_total{{method="PUT",{route},status="201"}} 4' in lines
    assert any(line.startswith("bnrecal_ledger_commit_seconds_count") for line in lines)
    assert name not in text


def test_labels_do_not_grow_with_what_strangers_ask_for(api: Api) -> None:
    for number in range(5):
        api.http.get(f"/nothing/{number}")
    lines = api.http.get("/metrics").text.splitlines()
    assert 'bnrecal_requests_total{method="GET",route="(none)",status="404"} 5' in lines


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
    found = Counter("c", "text")
    found.add(2, path='a"b\\c\nd')
    assert list(found.lines())[-1] == 'c{path="a\\"b\\\\c\\nd"} 2'


def test_a_gauge_asks_when_somebody_looks() -> None:
    values = {"": 1.0}
    found = Gauge("g", "text", lambda: values)
    values[""] = 7.0
    assert list(found.lines())[-1] == "g 7"


def test_a_log_line_is_json_with_its_action_and_ids() -> None:
    record = logging.makeLogRecord(
        {
            "msg": "A run %s",
            "args": ("begins",),
            "levelname": "INFO",
            "action": "run-begins",
            "n": 1,
        }
    )
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["action"], line["n"]) == ("A run begins", "run-begins", 1)
    assert line["level"] == "info"
    assert line["time"].endswith("Z")


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
