from __future__ import annotations

import dataclasses
import json
import threading
from typing import Any

import pytest

from bn_ops.preprocess import Preprocess, Resize
from service.settings import Settings
from tests.support import stored_files
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, StartServer, batch, safetensors
from tests.support.waiting import until


def test_recalibration_succeeds(api: Api) -> None:
    name = api.finished(batches=3)
    found = api.get(name).json()
    assert found["state"] == "succeeded"
    assert found["batches"] == {
        "received": 3,
        "samples": 6,
        "bytes": found["batches"]["bytes"],
        "total": 3,
    }
    assert found["progress"] == {
        "phase": "verifying",
        "done": 1,
        "total": 1,
        "seconds_left": None,
    }
    assert found["attempts"] == 1
    assert found["error"] is None
    assert found["ended"] is not None
    for path in ("/model", "/model?variant=unfolded", "/statistics", "/report"):
        assert api.get(name, path).status_code == 200


def test_new_recalibration_is_open(api: Api) -> None:
    model = api.upload_model().json()["id"]
    response = api.http.post("/v1/recalibrations", json={"model": model, "layers": ["bn*"]})
    assert response.status_code == 201
    found = response.json()
    assert response.headers["Location"] == f"/v1/recalibrations/{found['id']}"
    assert found["state"] == "open"
    assert found["options"] == {
        "method": "exact",
        "estimator": {"name": "auto"},
        "layers": ["bn*"],
        "preprocess": None,
        "memory_bytes": None,
        "allow_mismatch": False,
        "opset": None,
        "target": None,
        "max_samples": None,
        "seed": 0,
    }
    assert found["batches"] == {"received": 0, "samples": 0, "bytes": 0, "total": None}


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("auto", {"name": "auto"}),
        ("auto:varied", {"name": "auto", "varied": True}),
        ({"name": "auto"}, {"name": "auto"}),
        ({"name": "auto", "varied": None}, {"name": "auto"}),
        ({"name": "auto", "varied": False}, {"name": "auto", "varied": False}),
        ("replace", {"name": "replace"}),
        ("shrink", {"name": "shrink"}),
        ("prior:64", {"name": "prior", "samples": 64, "mixture": False}),
        ("prior:0.5:mixture", {"name": "prior", "samples": 0.5, "mixture": True}),
        ("momentum:0.1", {"name": "momentum", "momentum": 0.1}),
        ({"name": "prior", "samples": 8}, {"name": "prior", "samples": 8, "mixture": False}),
    ],
)
def test_estimator_forms(api: Api, sent: object, stored: dict[str, Any]) -> None:
    model = api.upload_model().json()["id"]
    response = api.http.post("/v1/recalibrations", json={"model": model, "estimator": sent})
    found = response.json()["options"]["estimator"]
    assert found == stored
    assert [type(one) for one in found.values()] == [type(one) for one in stored.values()]


@pytest.mark.parametrize(
    "sent", ["", "guess", "prior", "prior:x", "prior:-1", "shrink:1", "momentum:2"]
)
def test_invalid_estimator_is_rejected(api: Api, sent: str) -> None:
    model = api.upload_model().json()["id"]
    response = api.http.post("/v1/recalibrations", json={"model": model, "estimator": sent})
    assert (response.status_code, response.json()["code"]) == (422, "option-invalid")


@pytest.mark.parametrize(("method", "estimator"), [("exact", "auto"), ("batch", "replace")])
def test_default_estimator_depends_on_method(api: Api, method: str, estimator: str) -> None:
    found = api.get(api.open(method=method)).json()
    assert found["options"]["estimator"] == {"name": estimator}


def test_openapi_shows_options(api: Api) -> None:
    schemas = api.http.get("/openapi.json").json()["components"]["schemas"]
    properties = schemas["RecalibrationIn"]["properties"]
    mapping = properties["estimator"]["anyOf"][0]["discriminator"]["mapping"]
    assert set(mapping) == {"auto", "replace", "shrink", "prior", "momentum"}
    fields = {field.name for field in dataclasses.fields(Preprocess)}
    assert set(schemas["PreprocessForm"]["properties"]) == fields
    fields = {field.name for field in dataclasses.fields(Resize)}
    assert set(schemas["ResizeForm"]["properties"]) == fields
    assert properties["opset"]["anyOf"][0] == {"type": "integer", "minimum": 7, "maximum": 1000}
    assert properties["memory_bytes"]["anyOf"][0] == {"type": "integer", "minimum": 512 << 20}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"model": "0" * 64}, 404, "not-found"),
        ({}, 422, "request-invalid"),
        ({"model": "M", "unknown": 1}, 422, "request-invalid"),
        ({"model": "M", "method": "guess"}, 422, "request-invalid"),
        ({"model": "M", "estimator": {"name": "guess"}}, 422, "option-invalid"),
        ({"model": "M", "estimator": "auto", "method": "batch"}, 422, "option-invalid"),
        ({"model": "M", "estimator": {"name": "auto", "varied": 3}}, 422, "option-invalid"),
        ({"model": "M", "estimator": {"name": "prior", "samples": None}}, 422, "option-invalid"),
        ({"model": "M", "target": "rknn", "opset": 8}, 422, "option-invalid"),
        ({"model": "M", "max_samples": 0}, 422, "request-invalid"),
        ({"model": "M", "max_samples": 5, "seed": 1 << 53}, 422, "request-invalid"),
        ({"model": "M", "seed": 1}, 422, "option-invalid"),
        ({"model": "M", "max_samples": 5, "method": "batch"}, 422, "option-invalid"),
        ({"model": "M", "layers": ["conv*"]}, 422, "layer-pattern-unmatched"),
    ],
)
def test_invalid_options_are_rejected(
    api: Api, body: dict[str, Any], status: int, code: str
) -> None:
    model = api.upload_model().json()["id"]
    if body.get("model") == "M":
        body = body | {"model": model}
    response = api.http.post("/v1/recalibrations", json=body)
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert api.http.get("/v1/recalibrations").json()["items"] == []


def test_idempotency_key_returns_same_recalibration(api: Api) -> None:
    model = api.upload_model().json()["id"]
    key = {"Idempotency-Key": "one"}
    first = api.http.post("/v1/recalibrations", json={"model": model}, headers=key)
    again = api.http.post("/v1/recalibrations", json={"model": model}, headers=key)
    other = api.http.post(
        "/v1/recalibrations", json={"model": model, "method": "batch"}, headers=key
    )
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["Location"] == first.headers["Location"]
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert len(api.http.get("/v1/recalibrations").json()["items"]) == 1


def test_start_lists_missing_batches(api: Api) -> None:
    name = api.open()
    for index in (0, 2, 5):
        api.put(name, index)
    response = api.start(name, 8)
    assert (response.status_code, response.json()["code"]) == (409, "batches-missing")
    assert response.json()["missing"] == [1, 3, 4, 6, 7]
    assert api.get(name).json()["state"] == "open"


def test_start_lists_at_most_100_batches(api: Api) -> None:
    name = api.open()
    api.put(name, 50)
    missing = api.start(name, 10_000_000).json()["missing"]
    assert missing == [*range(50), *range(51, 101)]


def test_start_with_unexpected_batches(api: Api) -> None:
    name = api.open()
    for index in (0, 1, 4):
        api.put(name, index)
    response = api.start(name, 2)
    assert (response.status_code, response.json()["code"]) == (409, "batches-unexpected")
    assert response.json()["first"] == 4


def test_empty_stream_is_rejected(api: Api) -> None:
    response = api.start(api.open(), 0)
    assert (response.status_code, response.json()["code"]) == (422, "stream-empty")


def test_repeated_start_is_idempotent(api: Api, executor: FakeExecutor) -> None:
    name = api.finished(batches=2)
    assert api.start(name, 2).status_code == 202
    other = api.start(name, 3)
    assert (other.status_code, other.json()["code"]) == (409, "recalibration-not-open")
    assert executor.runs == 1


def test_results_of_open_recalibration(api: Api) -> None:
    response = api.get(api.open(), "/model")
    assert (response.status_code, response.json()["code"]) == (409, "recalibration-not-finished")


def test_failed_run_reports_error_of_worker(api: Api, executor: FakeExecutor) -> None:
    executor.refusal = "layer-not-finite"
    name = api.open()
    api.put(name, 0)
    api.start(name, 1)
    found = api.wait(name)
    assert found["state"] == "failed"
    assert found["error"]["code"] == "layer-not-finite"
    assert found["error"]["batch"] == 1
    assert found["attempts"] == 1
    response = api.get(name, "/model")
    assert (response.status_code, response.json()["code"]) == (409, "recalibration-failed")


def test_crashed_run_is_repeated(api: Api, executor: FakeExecutor) -> None:
    executor.deaths = 2
    name = api.finished(batches=2)
    assert api.get(name).json()["attempts"] == 3


def test_run_fails_after_repeated_crashes(api: Api, executor: FakeExecutor) -> None:
    executor.deaths = 99
    name = api.open()
    api.put(name, 0)
    api.start(name, 1)
    found = api.wait(name)
    assert found["state"] == "failed"
    assert found["error"]["code"] == "worker-died"
    assert "SIGKILL" in found["error"]["detail"]
    assert found["attempts"] == 3


def test_cancel_is_idempotent(api: Api, executor: FakeExecutor) -> None:
    executor.hold = True
    name = api.open()
    api.put(name, 0)
    api.start(name, 1)
    until(lambda: executor.runs == 1, lambda: "the run has not started")
    for _ in range(2):
        response = api.http.post(f"/v1/recalibrations/{name}/cancel")
        assert (response.status_code, response.json()["state"]) == (202, "cancelled")
    assert executor.killed == 1
    assert api.get(name).json()["state"] == "cancelled"


def test_cancel_removes_uploaded_data(api: Api, executor: FakeExecutor, settings: Settings) -> None:
    executor.hold = True
    name = api.open()
    kept = api.open(keep_data=True)
    for one in (name, kept):
        api.put(one, 0)
        assert api.start(one, 1).status_code == 202
    api.wait(name, "running")
    for one in (name, kept):
        assert api.http.post(f"/v1/recalibrations/{one}/cancel").status_code == 202
    left = [key.split("/") for key in stored_files.sizes(settings, "recalibrations/")]
    assert [name for _, name, folder, _ in left if folder == "batches"] == [kept]


def test_cancel_after_success_is_rejected(api: Api) -> None:
    name = api.finished()
    response = api.http.post(f"/v1/recalibrations/{name}/cancel")
    assert (response.status_code, response.json()["code"]) == (409, "transition-refused")


def test_queued_run_waits(start_server: StartServer, executor: FakeExecutor) -> None:
    api = start_server(max_concurrent_runs=1)
    executor.hold = True
    names = [api.open(), api.open()]
    for name in names:
        api.put(name, 0)
        api.start(name, 1)
    api.wait(names[0], "running")
    assert api.get(names[1]).json()["state"] == "queued"
    api.http.post(f"/v1/recalibrations/{names[0]}/cancel")
    api.wait(names[1], "running")


def test_delete_in_any_state(api: Api, executor: FakeExecutor, settings: Any) -> None:
    executor.hold = True
    opened = api.open()
    running = api.open()
    for name in (opened, running):
        api.put(name, 0)
    api.start(running, 1)
    # The state is `running` from the claim on, before the executor is called.
    until(lambda: executor.runs == 1, lambda: "the run has not started")
    for name in (opened, running):
        assert api.http.delete(f"/v1/recalibrations/{name}").status_code == 204
        assert api.get(name).status_code == 404
        assert not (settings.data_dir / "recalibrations" / name).exists()
    assert executor.killed == 1
    assert api.http.delete(f"/v1/recalibrations/{opened}").status_code == 404


def test_uploaded_data_is_removed_after_success(api: Api, settings: Any) -> None:
    for keep in (False, True):
        name = api.finished(batches=2, keep_data=keep)
        folder = f"recalibrations/{name}/batches/"
        api.wait(name)
        until(lambda: bool(stored_files.sizes(settings, folder)) is keep)  # noqa: B023 - called at once
        assert len(api.get(name, "/batches").json()["items"]) == 2
        # A repeated upload is still acknowledged.
        assert api.put(name, 1).status_code == 200


def test_upload_order_is_irrelevant(api: Api) -> None:
    results = []
    for order in ([0, 1, 2], [2, 0, 1]):
        name = api.open()
        for index in order:
            api.put(name, index)
        api.start(name, 3)
        api.wait(name)
        results.append(api.get(name, "/model").content)
    assert results[0] == results[1]


def test_pagination(api: Api) -> None:
    names = [api.open() for _ in range(3)]
    first = api.http.get("/v1/recalibrations?limit=2").json()
    rest = api.http.get(f"/v1/recalibrations?limit=2&after={first['next']}").json()
    assert [one["id"] for one in first["items"] + rest["items"]] == names
    assert rest["next"] is None


def test_pagination_during_changes(api: Api) -> None:
    names = [api.open() for _ in range(4)]
    first = api.http.get("/v1/recalibrations?limit=2").json()
    for gone in (names[0], names[1], names[2]):
        api.http.delete(f"/v1/recalibrations/{gone}")
    new = api.open()
    rest = api.http.get(f"/v1/recalibrations?limit=2&after={first['next']}").json()
    assert [one["id"] for one in rest["items"]] == [names[3], new]


def test_concurrent_uploads(api: Api) -> None:
    name = api.open()
    statuses: list[int] = []

    def send(first: int) -> None:
        statuses.extend(api.put(name, index).status_code for index in range(first, 40, 4))

    threads = [threading.Thread(target=send, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [201] * 40
    assert api.start(name, 40).status_code == 202
    assert api.wait(name)["batches"]["received"] == 40


def test_batches_reach_the_worker_in_order(api: Api) -> None:
    one = api.open()
    for index in range(12):
        api.append(one, safetensors(x=batch(index)))
    api.start(one, 12)
    api.wait(one)
    other = api.finished(batches=12)
    first = json.loads(api.get(one, "/model").content)
    assert first["digest"] == json.loads(api.get(other, "/model").content)["digest"]


@pytest.mark.parametrize(
    ("number", "status"), [("1", 202), ("1.0", 202), ('"1"', 422), ("true", 422)]
)
def test_batch_count_is_a_json_number(api: Api, number: str, status: int) -> None:
    name = api.open()
    assert api.put(name, 0).status_code == 201
    body = f'{{"batches": {number}}}'.encode()
    kind = {"Content-Type": "application/json"}
    path = f"/v1/recalibrations/{name}/start"
    assert api.http.post(path, content=body, headers=kind).status_code == status


@pytest.mark.parametrize("option", ["opset", "memory_bytes"])
@pytest.mark.parametrize(
    ("number", "status"),
    [("17", 201), ("17.0", 201), ("17.5", 422), ('"17"', 422), ("true", 422)],
)
def test_integer_options_are_json_numbers(api: Api, option: str, number: str, status: int) -> None:
    model = api.upload_model().json()["id"]
    if option == "memory_bytes":
        number = number.replace("17", "1700000000")
    body = f'{{"model": "{model}", "{option}": {number}}}'.encode()
    kind = {"Content-Type": "application/json"}
    response = api.http.post("/v1/recalibrations", content=body, headers=kind)
    assert response.status_code == status, response.text


def names(api: Api, **query: str | int) -> list[str]:
    """Return the names on all pages of the list."""
    found: list[str] = []
    while True:
        page = api.http.get("/v1/recalibrations", params=query).json()
        found += [one["name"] for one in page["items"]]
        if page["next"] is None:
            return found
        query["after"] = page["next"]


def test_list_is_searched_and_starts_with_the_newest(api: Api) -> None:
    for name in ("Camera one", "camera 100%", "lamp_a", "lampXa", ""):
        api.open(name=name)
    everything = ["Camera one", "camera 100%", "lamp_a", "lampXa", ""]
    assert names(api) == everything
    assert names(api, order="newest", limit=2) == everything[::-1]
    assert names(api, search="CAMERA") == ["camera 100%", "Camera one"]
    assert names(api, search="100%") == ["camera 100%"]
    assert names(api, search="lamp_a") == ["lamp_a"]  # neither % nor _ is a wildcard
    assert names(api, search="!") == []
    assert names(api, search="nothing") == []
    assert names(api, search="open", limit=3) == everything[::-1]


def test_search_finds_verdicts_states_and_ids(api: Api) -> None:
    done = api.finished(name="done")
    waiting = api.open(name="waiting")
    assert names(api, search="check-with-labels") == ["done"]
    assert names(api, search="succeeded") == ["done"]
    assert names(api, search=waiting[-12:]) == ["waiting"]
    assert api.get(done).json()["name"] == "done"


def test_tags_are_stored_and_searched(api: Api) -> None:
    tags = ["camera-7", "nightly, full", "line\u2028separator"]
    tagged = api.open(name="tagged", tags=tags)
    api.open(name="plain")
    assert api.get(tagged).json()["tags"] == tags
    assert api.http.get("/v1/recalibrations").json()["items"][1]["tags"] == []
    for text in ("CAMERA-7", "nightly, f", "separator"):
        assert names(api, search=text) == ["tagged"]
    for text in ("[", '"', ", camera"):
        assert names(api, search=text) == []


@pytest.mark.parametrize("tags", [["two\nlines"], [""], ["x" * 51], ["x"] * 21, "word", [3]])
def test_tags_are_short_words(api: Api, tags: object) -> None:
    model = api.upload_model().json()["id"]
    response = api.http.post("/v1/recalibrations", json={"model": model, "tags": tags})
    assert (response.status_code, response.json()["code"]) == (422, "request-invalid")


@pytest.mark.parametrize("name", ["two\nlines", "x" * 201, "\x00", 3])
def test_names_are_one_short_line(api: Api, name: object) -> None:
    model = api.upload_model().json()["id"]
    response = api.http.post("/v1/recalibrations", json={"model": model, "name": name})
    assert (response.status_code, response.json()["code"]) == (422, "request-invalid")
