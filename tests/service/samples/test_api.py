"""Previews and predictions over HTTP; the work itself is that of a fake executor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from service.settings import Settings
from tests.support.service_fakes import PREDICTIONS, PREVIEW, FakeExecutor
from tests.support.service_http import Api, StartServer, batch, npy, scratch_files

NPY = {"Content-Type": "application/x-npy"}


def staged(settings: Settings) -> list[Path]:
    return [path for path in scratch_files(settings.data_dir) if path.is_file()]


def test_preview_passes_the_samples_and_stores_nothing(
    api: Api, executor: FakeExecutor, settings: Settings
) -> None:
    model = api.upload_model().json()["id"]
    response = api.http.post(f"/v1/models/{model}/preview", content=npy(batch()), headers=NPY)
    assert (response.status_code, response.json()) == (200, PREVIEW)
    (seen,) = executor.seen
    assert seen.format == "npy"
    assert dict(seen.options) == {"preprocess": None, "size": None}
    assert not seen.file.exists()
    assert staged(settings) == []


def test_preview_of_unreadable_samples_is_refused(api: Api, settings: Settings) -> None:
    model = api.upload_model().json()["id"]
    tar = {"Content-Type": "application/x-tar"}
    response = api.http.post(f"/v1/models/{model}/preview", content=b"bad", headers=tar)
    assert (response.status_code, response.json()["code"]) == (422, "batch-malformed")
    assert staged(settings) == []


@pytest.mark.parametrize(
    ("preprocess", "code"),
    [
        ("{", "request-invalid"),
        ("[]", "request-invalid"),
        ("[" * 4000, "request-invalid"),
        (json.dumps({"colour": "rgb"}), "option-invalid"),
        (json.dumps({"resize": 8, "crop": 8}), "option-invalid"),  # the model takes vectors
    ],
)
def test_preview_checks_the_preprocessing(api: Api, preprocess: str, code: str) -> None:
    model = api.upload_model().json()["id"]
    response = api.http.post(
        f"/v1/models/{model}/preview",
        params={"preprocess": preprocess},
        content=npy(batch()),
        headers=NPY,
    )
    assert (response.status_code, response.json()["code"]) == (422, code)


def test_preview_needs_a_known_model_and_type(api: Api) -> None:
    missing = api.http.post("/v1/models/none/preview", content=npy(batch()), headers=NPY)
    assert missing.status_code == 404
    model = api.upload_model().json()["id"]
    text = api.http.post(f"/v1/models/{model}/preview", content=b"x")
    assert text.status_code == 415


def test_malformed_answer_is_an_error_of_the_worker(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PREVIEW, "samples", "many")
    model = api.upload_model().json()["id"]
    response = api.http.post(f"/v1/models/{model}/preview", content=npy(batch()), headers=NPY)
    assert response.json()["code"] == "worker-error"


def test_predictions_use_both_models(api: Api, executor: FakeExecutor, settings: Settings) -> None:
    name = api.finished()
    samples = npy(np.zeros((1, 3), np.float32))
    path = f"/v1/recalibrations/{name}/predictions"
    response = api.http.post(path, content=samples, headers=NPY)
    assert (response.status_code, response.json()) == (200, PREDICTIONS)
    assert [seen.format for seen in executor.seen] == ["npy"]
    assert staged(settings) == []


def test_predictions_need_a_result_and_the_model(api: Api) -> None:
    samples = npy(np.zeros((1, 3), np.float32))
    unfinished = api.open()
    path = f"/v1/recalibrations/{unfinished}/predictions"
    response = api.http.post(path, content=samples, headers=NPY)
    assert (response.status_code, response.json()["code"]) == (409, "recalibration-not-finished")
    assert api.http.delete(f"/v1/recalibrations/{unfinished}").status_code == 204

    name = api.finished()
    model = api.get(name).json()["model"]
    assert api.http.delete(f"/v1/models/{model}").status_code == 204
    response = api.http.post(f"/v1/recalibrations/{name}/predictions", content=samples, headers=NPY)
    assert (response.status_code, response.json()["code"]) == (404, "not-found")


def test_samples_are_limited(start_server: StartServer) -> None:
    api = start_server(batch_limit_bytes=200)
    model = api.upload_model().json()["id"]
    content = npy(np.zeros((100, 3), np.float32))
    response = api.http.post(f"/v1/models/{model}/preview", content=content, headers=NPY)
    assert (response.status_code, response.json()["code"]) == (413, "too-large")
