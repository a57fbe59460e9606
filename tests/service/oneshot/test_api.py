"""One-shot recalibration: model and data in one form."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import numpy as np
import pytest

from service.settings import Settings
from service.storage.blobs.folder import FileDraft, FolderBlobs
from service.storage.blobs.objects import ObjectBlobs
from tests.support import stored_files
from tests.support.service_fakes import GOOD_MODEL, FakeExecutor
from tests.support.service_http import Api, StartServer, batch, npy, safetensors, scratch_files
from tests.support.waiting import until

File = tuple[str, bytes, str]
MODEL: tuple[str, File] = ("model", ("m.onnx", GOOD_MODEL, "application/octet-stream"))
DATA: tuple[str, File] = ("data", ("x.npy", npy(batch(0)), "application/octet-stream"))


def post(api: Api, *parts: tuple[str, Any], **headers: str) -> httpx.Response:
    return api.http.post("/v1/recalibrate", files=list(parts), headers=headers)


def options(value: object) -> tuple[str, tuple[None, bytes, str]]:
    return "options", (None, json.dumps(value).encode(), "application/json")


def staged(settings: Settings) -> list[str]:
    return [path.name for path in scratch_files(settings.data_dir)]


def test_response_is_the_folded_model(api: Api, settings: Settings) -> None:
    second = ("data", ("y", safetensors(x=batch(1)), "application/vnd.safetensors"))
    response = post(api, MODEL, DATA, second, options({"method": "batch"}))
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/x-onnx"
    name = response.headers["Location"].rpartition("/")[2]
    found = api.get(name).json()
    assert (found["state"], found["batches"]["received"]) == ("succeeded", 2)
    assert found["options"]["method"] == "batch"
    stepwise = api.open(method="batch")
    api.put(stepwise, 0, npy(batch(0)), {"Content-Type": "application/x-npy"})
    api.put(stepwise, 1, safetensors(x=batch(1)))
    api.start(stepwise, 2)
    api.wait(stepwise)
    assert (
        response.content == api.get(stepwise, "/model").content == api.get(name, "/model").content
    )
    assert staged(settings) == []


@pytest.mark.parametrize("samples", [2, 20_000], ids=["pack", "file"])
def test_form_file_is_written_once(
    api: Api, settings: Settings, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    drafts: list[FileDraft] = []
    kind = ObjectBlobs if settings.blobs else FolderBlobs
    begin = kind.draft

    def draft(blobs: Any) -> FileDraft:
        drafts.append(begin(blobs))
        return drafts[-1]

    monkeypatch.setattr(kind, "draft", draft)
    content = npy(batch(0, samples))
    data = ("data", ("x.npy", content, "application/octet-stream"))
    response = post(api, MODEL, data, options({"keep_data": True}))
    assert response.status_code == 200
    # The model and the data of the form, and the stored model.
    assert len(drafts) == 3
    name = response.headers["Location"].rpartition("/")[2]
    folder = f"recalibrations/{name}/batches/"
    assert list(stored_files.contents(settings, folder).values()) == [content]
    until(lambda: staged(settings) == [], lambda: staged(settings))


def test_repeated_key_runs_once(api: Api, executor: FakeExecutor) -> None:
    first = post(api, MODEL, DATA, **{"Idempotency-Key": "a"})
    again = post(api, options({}), DATA, MODEL, **{"Idempotency-Key": "a"})
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["Location"] == first.headers["Location"]
    assert executor.runs == 1
    for parts in (
        [MODEL, DATA, options({"method": "batch"})],
        [MODEL, DATA, DATA],
        [("model", ("m", GOOD_MODEL + b"2", "")), DATA],
    ):
        other = post(api, *parts, **{"Idempotency-Key": "a"})
        assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert len(api.http.get("/v1/recalibrations").json()["items"]) == 1
    assert post(api, MODEL, DATA, **{"Idempotency-Key": "b"}).status_code == 200
    assert executor.runs == 2


def test_key_of_deleted_or_failed_recalibration(api: Api, executor: FakeExecutor) -> None:
    key = {"Idempotency-Key": "a"}
    executor.refusal = "layer-not-finite"
    first = post(api, MODEL, DATA, **key)
    assert post(api, MODEL, DATA, **key).json()["code"] == "layer-not-finite"
    assert executor.runs == 1
    executor.refusal = None
    assert api.http.delete(first.headers["Location"]).status_code == 204
    assert post(api, MODEL, DATA, **key).status_code == 200
    assert post(api, MODEL, DATA, **key).status_code == 200
    assert executor.runs == 2


def test_concurrent_requests_share_a_run(api: Api, executor: FakeExecutor) -> None:
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(post(api, MODEL, DATA, **{"Idempotency-Key": "a"}))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.status_code for one in answers] == [200] * 4
    assert len({one.headers["Location"] for one in answers}) == executor.runs == 1
    assert len(api.http.get("/v1/recalibrations").json()["items"]) == 1


def source(index: int) -> tuple[str, File]:
    return ("source", ("s.npy", npy(batch(index)), "application/octet-stream"))


def test_source_parts_are_the_source_stream(api: Api, settings: Settings) -> None:
    folded = ("model", ("m.onnx", b"folded", "application/octet-stream"))
    refused = post(api, folded, DATA)
    assert (refused.status_code, refused.json()["code"]) == (422, "model-already-folded")
    response = post(api, folded, source(5), DATA, source(6), options({"keep_data": True}))
    assert response.status_code == 200, response.text
    name = response.headers["Location"].rpartition("/")[2]
    found = api.get(name).json()
    assert (found["batches"]["received"], found["source_batches"]["received"]) == (1, 2)
    until(lambda: staged(settings) == [], lambda: staged(settings))
    assert len(api.http.get("/v1/recalibrations").json()["items"]) == 1


def test_key_covers_the_source_parts(api: Api, executor: FakeExecutor) -> None:
    key = {"Idempotency-Key": "a"}
    first = post(api, MODEL, DATA, source(5), **key)
    again = post(api, MODEL, DATA, source(5), **key)
    assert again.headers["Location"] == first.headers["Location"]
    assert executor.runs == 1
    for other in ([source(6)], []):
        assert post(api, MODEL, DATA, *other, **key).json()["code"] == "idempotency-key-reused"


def test_order_of_parts_is_irrelevant(api: Api) -> None:
    assert post(api, options({}), DATA, MODEL).content == post(api, MODEL, DATA).content


BAD_BATCH = ("data", ("x.npy", npy(batch()) + b"more", ""))
NAN = ("data", ("x.npy", npy(np.full((1, 3), np.nan, np.float32)), ""))
REFUSED: dict[str, tuple[list[tuple[str, Any]], int, str]] = {
    "no model": ([DATA], 422, "request-invalid"),
    "no data": ([MODEL], 422, "request-invalid"),
    "two models": ([MODEL, MODEL, DATA], 422, "request-invalid"),
    "unknown part": ([MODEL, DATA, ("more", ("a", b"b", ""))], 422, "request-invalid"),
    "options that are not JSON": (
        [MODEL, DATA, ("options", (None, b"{", ""))],
        422,
        "request-invalid",
    ),
    "nested options": ([MODEL, DATA, ("options", (None, b"[" * 9999, ""))], 422, "request-invalid"),
    "model in the options": ([MODEL, DATA, options({"model": "a"})], 422, "request-invalid"),
    "unknown options": ([MODEL, DATA, options({"magic": 1})], 422, "request-invalid"),
    "lone surrogates in the options": (
        [MODEL, DATA, ("options", (None, b'{"\\ud800": 1, "layers": ["\\udfff"]}', ""))],
        422,
        "request-invalid",
    ),
    "unknown estimator": (
        [MODEL, DATA, options({"estimator": {"name": "magic"}})],
        422,
        "option-invalid",
    ),
    "unknown target": ([MODEL, DATA, options({"target": "tflite"})], 422, "request-invalid"),
    "opset that is not a number": ([MODEL, DATA, options({"opset": "13"})], 422, "request-invalid"),
    "opset that the target does not load": (
        [MODEL, DATA, options({"opset": 11, "target": "rknn"})],
        422,
        "option-invalid",
    ),
    "invalid model": ([("model", ("m", b"bad", "")), DATA], 422, "model-invalid"),
    "invalid batch": ([MODEL, DATA, BAD_BATCH], 422, "batch-malformed"),
    "nan": ([MODEL, NAN], 422, "batch-not-finite"),
    "unknown format": ([MODEL, ("data", ("x.csv", b"1,2", ""))], 415, "media-type-unsupported"),
    "images without preprocess": (
        [MODEL, ("data", ("x.png", b"\x89PNG", "image/png"))],
        422,
        "preprocess-missing",
    ),
    "oversized file": (
        [MODEL, ("data", ("x.npy", npy(batch(samples=20_000)), ""))],
        413,
        "too-large",
    ),
    "oversized options": (
        [MODEL, DATA, ("options", (None, b" " * (1 << 21), ""))],
        413,
        "too-large",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_rejected_form_leaves_nothing(
    start_server: StartServer, settings: Settings, what: str
) -> None:
    api = start_server(batch_limit_bytes=200_000)
    parts, status, code = REFUSED[what]
    response = post(api, *parts)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert api.http.get("/v1/recalibrations").json()["items"] == []
    assert staged(settings) == []


@pytest.mark.parametrize(
    "kind",
    ["application/json", "multipart/form-data", "multipart/form-data; boundary=" + "b" * 300],
)
def test_wrong_content_type_is_rejected(api: Api, kind: str) -> None:
    response = api.http.post("/v1/recalibrate", content=b"{}", headers={"Content-Type": kind})
    assert (response.status_code, response.json()["code"]) == (415, "media-type-unsupported")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"--b",
        b"--b\r\nbroken\r\n\r\n--b--",
        b"--c\r\n\r\n",
        b"preamble\r\n--b--",
        b"\npreamble--b--",
    ],
)
def test_malformed_form_is_rejected(api: Api, settings: Settings, content: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = api.http.post("/v1/recalibrate", content=content, headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "request-invalid")
    assert staged(settings) == []


def test_form_over_total_limit_is_rejected(start_server: StartServer) -> None:
    api = start_server(total_limit_bytes=100)
    response = post(api, MODEL, DATA)
    assert (response.status_code, response.json()["code"]) == (507, "storage-full")


def test_failed_run_is_a_problem(api: Api, executor: FakeExecutor) -> None:
    executor.refusal = "layer-not-finite"
    response = post(api, MODEL, DATA)
    assert (response.status_code, response.json()["code"]) == (422, "layer-not-finite")
    assert response.json()["instance"].startswith("urn:bnrecal:request:")
    name = response.headers["Location"].rpartition("/")[2]
    assert api.get(name).json()["state"] == "failed"


def test_content_encoding_is_rejected(api: Api) -> None:
    response = post(api, MODEL, DATA, **{"Content-Encoding": "gzip"})
    assert (response.status_code, response.json()["code"]) == (415, "media-type-unsupported")
    assert "gzip" in response.json()["detail"]


@pytest.mark.parametrize("name", ["\N{EURO SIGN}", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"])
def test_file_names_outside_latin_1(api: Api, name: str) -> None:
    assert post(api, MODEL, ("data", (f"{name}.npy", *DATA[1][1:]))).status_code == 200
    refused = post(api, MODEL, (name, (None, b"")))
    assert (refused.status_code, refused.json()["code"]) == (422, "request-invalid")
