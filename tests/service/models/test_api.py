from __future__ import annotations

import asyncio
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from service.errors import WorkerDiedError
from service.repositories import models
from service.settings import Settings
from service.storage.ledger.maintenance import open_ledger
from tests.support import stored_files
from tests.support.service_fakes import GOOD_MODEL, FakeExecutor
from tests.support.service_http import Api, StartServer, scratch_files

MODEL_ID = hashlib.sha256(GOOD_MODEL).hexdigest()


def test_new_model_is_described(api: Api) -> None:
    response = api.upload_model()
    assert response.status_code == 201
    found = response.json()
    assert found["id"] == hashlib.sha256(GOOD_MODEL).hexdigest()
    assert found["bytes"] == len(GOOD_MODEL)
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": ["N", 3]}]
    assert found["layers"][0]["name"] == "bn1"
    assert api.http.get(response.headers["Location"]).json() == found


def test_repeated_upload_is_not_inspected(api: Api, executor: FakeExecutor) -> None:
    first = api.upload_model()
    again = api.upload_model()
    assert again.status_code == 200
    assert again.json() == first.json()
    assert executor.describing == 1


def test_rejected_model_leaves_nothing(api: Api, settings: Settings) -> None:
    response = api.upload_model(b"bad bytes")
    assert response.status_code == 422
    assert response.json()["code"] == "model-invalid"
    assert api.http.get("/v1/models").json() == {"items": [], "next": None}
    assert stored_files.sizes(settings, "models/") == {}
    assert scratch_files(settings.data_dir) == []


def test_oversized_model_is_rejected(start_server: StartServer, executor: FakeExecutor) -> None:
    api = start_server(model_limit_bytes=5)
    response = api.upload_model()
    assert response.status_code == 413
    assert response.json()["code"] == "too-large"
    assert executor.describing == 0


def test_wrong_content_type_is_rejected(api: Api) -> None:
    response = api.http.post("/v1/models", content=b"x", headers={"Content-Type": "text/plain"})
    assert response.status_code == 415
    assert response.json()["code"] == "media-type-unsupported"


def test_digest_mismatch_is_rejected(api: Api) -> None:
    headers = {"Content-Type": "application/x-onnx", "Content-Digest": f"sha-256=:{'A' * 43}=:"}
    response = api.http.post("/v1/models", content=GOOD_MODEL, headers=headers)
    assert response.status_code == 400
    assert response.json()["code"] == "digest-mismatch"


def test_models_are_listed_in_upload_order(api: Api) -> None:
    ids = [api.upload_model(f"model {number}".encode()).json()["id"] for number in range(5)]
    seen: list[str] = []
    after = None
    while True:
        page = api.http.get("/v1/models", params={"limit": 2} | ({"after": after} if after else {}))
        seen += [item["id"] for item in page.json()["items"]]
        after = page.json()["next"]
        if after is None:
            break
    assert seen == ids


def test_model_in_use_cannot_be_deleted(api: Api, settings: Settings) -> None:
    name = api.open()
    model = api.get(name).json()["model"]
    refused = api.http.delete(f"/v1/models/{model}")
    assert refused.status_code == 409
    assert refused.json()["code"] == "model-in-use"
    api.http.post(f"/v1/recalibrations/{name}/cancel")
    assert api.http.delete(f"/v1/models/{model}").status_code == 204
    assert api.http.get(f"/v1/models/{model}").status_code == 404
    assert stored_files.sizes(settings, "models/") == {}


def test_deleted_model_can_be_uploaded_again(api: Api) -> None:
    model = api.upload_model().json()["id"]
    assert api.http.delete(f"/v1/models/{model}").status_code == 204
    assert api.http.delete(f"/v1/models/{model}").status_code == 404
    assert api.upload_model().status_code == 201


def test_concurrent_uploads_keep_first_file(
    start_server: StartServer, executor: FakeExecutor, settings: Settings
) -> None:
    """The sandbox permits a worker to open the file that exists when it starts, not a later one."""
    api = start_server()
    gate = threading.Barrier(3)
    folders: list[str] = []
    inspect = executor.inspect

    async def both_at_once(model: Path) -> dict[str, Any]:
        await asyncio.to_thread(gate.wait, 60)
        return await inspect(model)

    executor.inspect = both_at_once  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(api.upload_model) for _ in range(2)]
        gate.wait(60)
        for answer in as_completed(answers):
            assert answer.result().is_success
            with open_ledger(settings.data_dir, settings.ledger) as ledger:
                folders.append(ledger.read(lambda tx: models.get(tx, MODEL_ID).folder))
    assert sorted(one.result().status_code for one in answers) == [200, 201]
    assert folders[0] == folders[1]
    assert list(stored_files.sizes(settings, "models/")) == [f"models/{folders[0]}/model.onnx"]


def test_inspection_is_retried_after_crash(api: Api, executor: FakeExecutor) -> None:
    deaths = iter([True, True, False])
    inspect = executor.inspect

    async def dying(model: Path) -> dict[str, Any]:
        if next(deaths):
            raise WorkerDiedError("the worker was killed by SIGKILL")
        return await inspect(model)

    executor.inspect = dying  # type: ignore[method-assign]
    assert api.upload_model().status_code == 201


def test_lost_model_file_is_restored(api: Api, settings: Settings) -> None:
    api.upload_model()
    (key,) = stored_files.sizes(settings, "models/")
    stored_files.remove(settings, key.rpartition("/")[0])
    assert api.upload_model().status_code == 200
    (content,) = stored_files.contents(settings, "models/").values()
    assert content == GOOD_MODEL
    api.open()
