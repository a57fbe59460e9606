"""What a client names for the report reaches the run, and is checked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.service_fakes import GOOD_MODEL, FakeExecutor
from tests.support.service_http import Api, batch, safetensors

DETAILS = {
    "model_name": "net.onnx",
    "data_name": "photos/",
    "command": "bnrecal recalibrate net.onnx photos/",
    "skipped_samples": [{"index": 3, "reason": "NaN or Inf"}],
}


def start(api: Api, details: dict[str, Any]) -> tuple[str, int]:
    name = api.open()
    api.put(name, 0)
    body = {"batches": 1, "report": details}
    return name, api.http.post(f"/v1/recalibrations/{name}/start", json=body).status_code


def test_details_reach_the_run(api: Api, executor: FakeExecutor) -> None:
    name, status = start(api, DETAILS)
    assert status == 202
    api.wait(name)
    [job] = executor.jobs
    assert job.options["report"] == DETAILS
    assert job.options["method"] == "exact"
    assert "report" not in api.get(name).json()["options"]


def test_start_without_details(api: Api, executor: FakeExecutor) -> None:
    name = api.open()
    api.put(name, 0)
    api.start(name, 1)
    api.wait(name)
    assert "report" not in executor.jobs[0].options


@pytest.mark.parametrize(
    "details",
    [
        {"model_name": "a\nb"},
        {"data_name": "x" * 301},
        {"command": "x" * 4001},
        {"unknown": 1},
        {"skipped_samples": [{"index": -1, "reason": "x"}]},
        {"skipped_samples": [{"index": 1}]},
        {"skipped_samples": [{"index": i, "reason": "x"} for i in range(1001)]},
    ],
)
def test_invalid_details_are_refused(api: Api, details: dict[str, Any]) -> None:
    assert start(api, details)[1] == 422


def test_lone_surrogates_are_refused(api: Api) -> None:
    name = api.open()
    api.put(name, 0)
    content = b'{"batches": 1, "report": {"model_name": "\\ud800"}}'
    response = api.http.post(
        f"/v1/recalibrations/{name}/start",
        content=content,
        headers={"Content-Type": "application/json"},
    )
    assert response.status_code == 422


def test_form_names_model_and_data(api: Api, executor: FakeExecutor) -> None:
    files = [
        ("model", ("net.onnx", GOOD_MODEL)),
        ("data", ("a.safetensors", safetensors(x=batch(0)))),
        ("data", ("b.safetensors", safetensors(x=batch(1)))),
    ]
    assert api.http.post("/v1/recalibrate", files=files).status_code == 200
    assert executor.jobs[0].options["report"] == {
        "model_name": "net.onnx",
        "data_name": "a.safetensors and 1 more",
        "skipped_samples": [],
    }
