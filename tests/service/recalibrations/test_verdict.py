"""The verdict of a succeeded recalibration, wherever the server reports it."""

from __future__ import annotations

import json
import logging
from typing import Any

import apsw
import pytest

from service.app import create_app
from service.settings import Settings
from service.storage.ledger.maintenance import open_ledger
from tests.support import large_ledger
from tests.support.service_fakes import VERDICT, FakeExecutor
from tests.support.service_http import Api, batch, npy
from tests.support.service_loop import serving
from tests.support.waiting import until

REJECTED = VERDICT | {"code": "do-not-deploy", "sentence": "Keep the source model."}


def test_it_is_set_when_the_recalibration_has_succeeded(api: Api) -> None:
    name = api.open()
    assert api.get(name).json()["verdict"] is None
    api.put(name, 0)
    api.start(name, 1)
    assert api.wait(name)["verdict"] == VERDICT


def test_only_the_last_event_holds_it(api: Api) -> None:
    name = api.finished()
    lines = api.get(name, "/events").text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data")]
    assert [one["verdict"] for one in events] == [None] * (len(events) - 1) + [VERDICT]


def test_a_failed_recalibration_has_none(api: Api, executor: FakeExecutor) -> None:
    executor.refusal = "input-mismatch"
    name = api.open()
    api.put(name, 0)
    api.start(name, 1)
    found = api.wait(name)
    assert (found["state"], found["verdict"]) == ("failed", None)
    assert (found["error"]["code"], found["error"]["status"]) == ("input-mismatch", 422)
    assert "bnrecal_verdicts_total{" not in api.http.get("/metrics").text


def test_a_report_without_a_verdict_is_a_success(api: Api, executor: FakeExecutor) -> None:
    executor.verdict = None
    assert api.get(api.finished()).json()["verdict"] is None


@pytest.mark.parametrize(
    "malformed",
    [{"code": "fine"}, VERDICT | {"code": "fine"}, VERDICT | {"reasons": [{"code": 3}]}, {}],
    ids=str,
)
def test_a_malformed_verdict_counts_as_a_crash(
    malformed: dict[str, Any], api: Api, executor: FakeExecutor
) -> None:
    executor.verdict = malformed
    name = api.open()
    api.put(name, 0)
    api.start(name, 1)
    found = api.wait(name)
    assert (found["state"], found["verdict"], executor.runs) == ("failed", None, 3)
    assert "malformed verdict" in found["error"]["detail"]


def test_it_survives_a_restart(settings: Settings) -> None:
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        name = Api(http).finished()
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        assert Api(http).get(name).json()["verdict"] == VERDICT


def test_verdicts_are_counted(api: Api, executor: FakeExecutor) -> None:
    api.finished()
    executor.verdict = REJECTED
    api.finished()
    api.finished()
    last = 'bnrecal_verdicts_total{verdict="do-not-deploy"} 2.0\n'
    until(lambda: last in api.http.get("/metrics").text)
    first = 'bnrecal_verdicts_total{verdict="check-with-labels"} 1.0\n'
    assert first in api.http.get("/metrics").text


def test_the_log_line_of_a_run_has_its_code(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    def ended() -> list[logging.LogRecord]:
        return [one for one in caplog.records if getattr(one, "action", "") == "run-ended"]

    with caplog.at_level(logging.INFO):
        api.finished()
        until(ended)
    (record,) = ended()
    assert vars(record)["verdict"] == "check-with-labels"
    assert record.getMessage() == "A run has ended: succeeded, verdict check-with-labels"


@pytest.mark.parametrize("code", ["do-not-deploy", None])
def test_a_one_shot_response_has_its_code_as_a_header(
    code: str | None, api: Api, executor: FakeExecutor
) -> None:
    executor.verdict = None if code is None else REJECTED
    data = ("x.npy", npy(batch(0)), "application/octet-stream")
    model = ("m.onnx", b"good model", "application/octet-stream")
    response = api.http.post("/v1/recalibrate", files=[("model", model), ("data", data)])
    assert response.status_code == 200
    assert response.headers.get("X-Bnrecal-Verdict") == code


def test_a_ledger_of_version_7_is_migrated(settings: Settings) -> None:
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        ended, opened = api.finished(keep_data=True), api.open()
        stored = [api.put(opened, index).json() for index in range(3)]
    connection = apsw.Connection(str(settings.data_dir / "ledger.sqlite3"))
    large_ledger.use_old_names(settings.data_dir)
    large_ledger.downgrade(connection, 7)
    connection.close()
    with open_ledger(settings.data_dir, settings.ledger) as ledger:
        assert ledger.faults() == []
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        assert api.get(ended).json()["verdict"] is None
        assert api.start(ended, 3).status_code == 202  # a repeated start
        assert api.get(opened, "/batches").json()["items"] == stored
        assert api.put(opened, 1).status_code == 200
        assert api.start(opened, 3).status_code == 202
        assert api.wait(opened)["verdict"] == VERDICT


def test_allow_mismatch_is_an_option_that_reaches_the_worker(api: Api) -> None:
    for value in (False, True):
        name = api.finished(allow_mismatch=value)
        assert api.get(name).json()["options"]["allow_mismatch"] is value
        result = json.loads(api.get(name, "/model").content)
        assert result["options"]["allow_mismatch"] is value
    assert api.get(api.open()).json()["options"]["allow_mismatch"] is False
