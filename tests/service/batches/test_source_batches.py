"""The second stream of a recalibration: batches of the domain that the model was trained on."""

from __future__ import annotations

import hashlib
import json

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from service.storage.ledger.maintenance import open_ledger
from tests.support.service_fakes import FOLDED_MODEL, GOOD_MODEL, FakeExecutor
from tests.support.service_http import Api, StartServer, batch, safetensors
from tests.support.service_loop import serving
from tests.support.waiting import until

EMPTY = {"received": 0, "samples": 0, "bytes": 0, "total": None}


@pytest.fixture(params=["pack", "file"])
def settings(request: pytest.FixtureRequest, settings: Settings) -> Settings:
    packed = {"pack": settings.packed_batch_bytes, "file": 0}[request.param]
    return settings.model_copy(update={"packed_batch_bytes": packed})


def test_source_batches_are_counted_separately(api: Api) -> None:
    name = api.open()
    content = safetensors(x=batch(5, samples=4))
    assert api.put(name, 0).status_code == 201
    response = api.put_source(name, 0, content)
    assert response.status_code == 201
    assert response.json() == {
        "index": 0,
        "samples": 4,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    found = api.get(name).json()
    assert found["batches"]["received"] == 1
    assert found["batches"]["samples"] == 2
    assert found["batches"]["bytes"] == len(safetensors(x=batch(0)))
    counts = {"received": 1, "samples": 4, "bytes": len(content), "total": None}
    assert found["source_batches"] == counts


def test_no_source_batches_by_default(api: Api) -> None:
    name = api.open()
    assert api.get(name).json()["source_batches"] == EMPTY


def test_both_streams_have_same_rules(api: Api) -> None:
    """The same index holds a batch in each stream; replays and conflicts are found in each."""
    name = api.open()
    same, other = safetensors(x=batch(1)), safetensors(x=batch(2))
    for put in (api.put, api.put_source):
        assert put(name, 3, same).status_code == 201
        assert put(name, 3, same).status_code == 200
        conflict = put(name, 3, other)
        assert (conflict.status_code, conflict.json()["code"]) == (409, "batch-conflict")
    for path in ("/batches", "/source-batches"):
        assert [one["index"] for one in api.get(name, path).json()["items"]] == [3]


def test_pages_list_one_stream(api: Api) -> None:
    name = api.open()
    for index in range(5):
        api.put_source(name, index)
    api.put(name, 7)
    first = api.get(name, "/source-batches?limit=3").json()
    assert [one["index"] for one in first["items"]] == [0, 1, 2]
    rest = api.get(name, f"/source-batches?limit=3&after={first['next']}").json()
    assert [one["index"] for one in rest["items"]] == [3, 4]
    assert rest["next"] is None


def test_idempotency_key_belongs_to_one_stream(api: Api) -> None:
    name = api.open()
    content = safetensors(x=batch(1))

    def append(to: str) -> httpx.Response:
        return api.append(name, content, to=to, **{"Idempotency-Key": "k"})

    for to in ("batches", "source-batches"):
        new, again = append(to), append(to)
        assert (new.status_code, again.status_code) == (201, 200)
        assert new.json() == again.json()
        assert new.headers["Location"] == f"/v1/recalibrations/{name}/{to}/0"
    found = api.get(name).json()
    assert (found["batches"]["received"], found["source_batches"]["received"]) == (1, 1)


def test_announced_digest_is_verified(api: Api) -> None:
    name = api.open()
    wrong = {"Content-Digest": "sha-256=:" + "A" * 43 + "=:"}
    response = api.put_source(name, 0, headers=wrong)
    assert (response.status_code, response.json()["code"]) == (400, "digest-mismatch")
    assert api.get(name).json()["source_batches"] == EMPTY


def test_invalid_source_batch_is_rejected(api: Api) -> None:
    name = api.open()
    response = api.put_source(name, 0, safetensors(other=batch(0)))
    assert (response.status_code, response.json()["code"]) == (422, "batch-input")


def test_archives_are_read_by_a_worker(api: Api, executor: FakeExecutor) -> None:
    name = api.open()
    headers = {"Content-Type": "application/x-npz"}
    response = api.put_source(name, 0, b"bad", headers)
    assert (response.status_code, response.json()["code"]) == (422, "batch-malformed")
    assert api.put_source(name, 0, b"PK", headers).status_code == 201
    assert executor.checking == 2


SIZE = len(safetensors(x=batch(0)))


@pytest.mark.parametrize(
    "limit", [{"recalibration_limit_batches": 2}, {"recalibration_limit_bytes": 2 * SIZE}], ids=str
)
def test_limits_count_both_streams(limit: dict[str, int], start_server: StartServer) -> None:
    api = start_server(**limit)
    name = api.open()
    assert api.put_source(name, 0).status_code == 201
    assert api.put(name, 0).status_code == 201
    for put in (api.put, api.put_source):
        response = put(name, 1)
        assert (response.status_code, response.json()["code"]) == (413, "quota-exceeded")


@pytest.mark.parametrize(
    ("stored", "counts", "code"),
    [
        (2, {"source_batches": 3}, "batches-missing"),
        (2, {"source_batches": 1}, "batches-unexpected"),
        (2, {}, "batches-unexpected"),
        (0, {"source_batches": 1}, "batches-missing"),
    ],
)
def test_announced_number_must_be_stored(
    api: Api, stored: int, counts: dict[str, int], code: str
) -> None:
    name = api.open()
    api.put(name, 0)
    for index in range(stored):
        api.put_source(name, index)
    response = api.start(name, 1, **counts)
    assert (response.status_code, response.json()["code"]) == (409, code)
    assert "source batches" in response.json()["detail"]
    assert api.get(name).json()["state"] == "open"


def test_model_without_batchnorm_has_a_warning(api: Api) -> None:
    found = api.upload_model(FOLDED_MODEL)
    assert found.status_code == 201
    assert found.json()["needs_source_batches"] is True
    assert found.json()["warnings"] == ["its layers are folded"]
    assert api.upload_model(GOOD_MODEL).json()["needs_source_batches"] is False


def test_insertion_needs_source_batches(api: Api, executor: FakeExecutor) -> None:
    name = api.open(FOLDED_MODEL, layers=["conv*"])
    api.put(name, 0)
    response = api.start(name, 1)
    assert (response.status_code, response.json()["code"]) == (422, "model-already-folded")
    assert f"/v1/recalibrations/{name}/source-batches/0" in response.json()["detail"]
    assert executor.runs == 0
    api.put_source(name, 0)
    assert api.start(name, 1, source_batches=1).status_code == 202
    assert api.wait(name)["state"] == "succeeded"


def run(api: Api, name: str) -> bytes:
    for index in range(2):
        api.put(name, index)
        api.put_source(name, index)
    assert api.start(name, 2, source_batches=2).status_code == 202
    assert api.wait(name)["state"] == "succeeded"
    return api.get(name, "/model").content


def test_run_reads_source_stream_last(api: Api) -> None:
    expected = hashlib.sha256(FOLDED_MODEL)
    for seed in (0, 1, 100, 101):
        expected.update(safetensors(x=batch(seed)))
    found = json.loads(run(api, api.open(FOLDED_MODEL)))
    assert found["digest"] == expected.hexdigest()


def test_repeated_start_needs_same_counts(api: Api) -> None:
    name = api.open()
    run(api, name)
    assert api.get(name).json()["source_batches"]["total"] == 2
    assert api.start(name, 2, source_batches=2).status_code == 202
    for counts in ({}, {"source_batches": 1}):
        response = api.start(name, 2, **counts)
        assert (response.status_code, response.json()["code"]) == (409, "recalibration-not-open")


def test_sealed_recalibration_is_closed(api: Api) -> None:
    name = api.open(keep_data=True)
    run(api, name)
    assert api.put_source(name, 1).status_code == 200
    response = api.put_source(name, 2)
    assert (response.status_code, response.json()["code"]) == (409, "recalibration-not-open")


def test_source_batches_survive_restart(settings: Settings) -> None:
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        expected = run(api, api.open(FOLDED_MODEL))
        name = api.open(FOLDED_MODEL)
        stored = [api.put_source(name, index).json() for index in range(2)]
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        assert api.get(name, "/source-batches").json()["items"] == stored
        assert api.put_source(name, 1).status_code == 200
        assert run(api, name) == expected


def test_delete_removes_source_batches(api: Api, settings: Settings) -> None:
    name = api.open()
    api.put(name, 0)
    api.put_source(name, 0)
    assert api.http.delete(f"/v1/recalibrations/{name}").status_code == 204
    assert not (settings.data_dir / "recalibrations" / name).exists()
    with open_ledger(settings.data_dir, settings.ledger) as ledger:
        assert ledger.read(lambda tx: tx.rows("SELECT * FROM batch")) == []


def test_ended_recalibrations_keep_no_source_batches(api: Api, settings: Settings) -> None:
    name = api.open()
    run(api, name)
    folder = settings.data_dir / "recalibrations" / name / "batches"
    until(lambda: not folder.exists())  # removed after the state is recorded
