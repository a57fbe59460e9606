"""Import of batches by reference."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pytest

from service.batches import importing
from service.batches.importing import references
from service.errors import ForbiddenError, RequestInvalidError, StartError
from service.storage.blobs.object_client import ObjectClient
from service.storage.import_sources import ImportSources
from tests.support.s3 import ObjectServer
from tests.support.service_http import Api, StartServer, batch, npy, safetensors


@pytest.fixture
def bucket(s3: ObjectServer) -> str:
    return f"s3://{s3.bucket()}"


@pytest.fixture
def objects(bucket: str) -> ObjectClient:
    """Return the objects that may be imported."""
    return ObjectClient(f"{bucket}/data")


@pytest.fixture
def importer(start_server: StartServer, objects: ObjectClient) -> Api:
    return start_server(import_prefixes=f" {objects.url}/ ,s3://other/prefix")


def imported(api: Api, name: str, *urls: str, to: str = "batches", **fields: Any) -> list[Any]:
    response = api.http.post(
        f"/v1/recalibrations/{name}/{to}:import", json={"urls": list(urls), **fields}
    )
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def shards(objects: ObjectClient, count: int = 12) -> str:
    for index in range(count):
        objects.put(f"shard-{index:03}.safetensors", safetensors(x=batch(index)))
    return f"{objects.url}/shard-{{000..{count - 1:03}}}.safetensors"


s3_group = pytest.mark.xdist_group("s3")


@s3_group
def test_import_equals_an_upload(importer: Api, objects: ObjectClient) -> None:
    name, other = importer.open(), importer.open()
    *lines, summary = imported(importer, name, shards(objects))
    assert summary == {"stored": 12, "present": 0, "failed": 0, "remaining": 0}
    assert sorted(line["index"] for line in lines) == list(range(12))
    for index in range(12):
        importer.put(other, index)
    pages = [importer.get(one, "/batches").json()["items"] for one in (name, other)]
    assert pages[0] == pages[1]
    assert importer.start(name, 12).status_code == 202
    assert importer.wait(name)["state"] == "succeeded"


@s3_group
def test_repeated_import_reads_only_what_is_missing(
    importer: Api, objects: ObjectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, url = importer.open(), shards(objects, 5)
    importer.put(name, 3)
    read: list[str] = []
    original = ObjectClient.read

    def counted(client: ObjectClient, key: str, start: int, stop: int) -> bytes:
        read.append(key)
        return original(client, key, start, stop)

    monkeypatch.setattr(ObjectClient, "read", counted)
    *lines, summary = imported(importer, name, url)
    assert summary == {"stored": 4, "present": 1, "failed": 0, "remaining": 0}
    assert [line["index"] for line in lines if line["status"] == "present"] == [3]
    assert sorted(read) == [f"shard-{index:03}.safetensors" for index in (0, 1, 2, 4)]
    assert imported(importer, name, url)[-1]["present"] == 5
    assert len(read) == 4
    assert imported(importer, name, url, compare=True)[-1]["present"] == 5
    assert len(read) == 9


@s3_group
def test_faults_are_reported_per_object(importer: Api, objects: ObjectClient) -> None:
    name = importer.open()
    importer.put(name, 1)
    objects.put("good.npy", npy(batch(0)))
    objects.put("conflict.safetensors", safetensors(x=batch(1000)))
    objects.put("malformed.safetensors", b"not a batch")
    objects.put("unknown.txt", b"text")
    objects.put("empty.npy", b"")
    objects.put("images.tar", tar())
    wanted = ["good.npy", "conflict.safetensors", "malformed.safetensors", "unknown.txt"]
    wanted += ["empty.npy", "images.tar", "missing.npy"]
    urls = [f"{objects.url}/{one}" for one in wanted]
    *lines, summary = imported(importer, name, *urls, compare=True)
    assert summary == {"stored": 1, "present": 0, "failed": 6, "remaining": 0}
    codes = {line["index"]: line.get("error", {}).get("code") for line in lines}
    assert codes == {
        0: None,
        1: "batch-conflict",
        2: "batch-malformed",
        3: "media-type-unsupported",
        4: "batch-malformed",
        5: "preprocess-missing",
        6: "not-found",
    }
    assert importer.get(name).json()["batches"]["received"] == 2


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    return buffer.getvalue()


@s3_group
def test_large_objects_are_refused_unread(start_server: StartServer, objects: ObjectClient) -> None:
    api = start_server(import_prefixes=objects.url, batch_limit_bytes=1000)
    objects.put("large.npy", bytes(1001))
    (line, _) = imported(api, api.open(), f"{objects.url}/large.npy")
    assert line["error"]["code"] == "too-large"


@s3_group
def test_import_ends_where_everything_would_fail(
    start_server: StartServer, objects: ObjectClient
) -> None:
    api = start_server(import_prefixes=objects.url, recalibration_limit_batches=3)
    *lines, summary = imported(api, api.open(), shards(objects, 30))
    assert summary["stored"] == 3
    assert summary["remaining"] >= 20
    assert {line["error"]["code"] for line in lines if "error" in line} == {"quota-exceeded"}


@s3_group
def test_source_batches_are_imported(importer: Api, objects: ObjectClient) -> None:
    name = importer.open()
    summary = imported(importer, name, shards(objects, 2), to="source-batches", first=3)[-1]
    assert summary["stored"] == 2
    found = importer.get(name, "/source-batches").json()["items"]
    assert [one["index"] for one in found] == [3, 4]


@s3_group
def test_sealed_stream_accepts_no_import(importer: Api, objects: ObjectClient) -> None:
    name = importer.finished()
    response = importer.http.post(
        f"/v1/recalibrations/{name}/batches:import", json={"urls": [shards(objects, 1)]}
    )
    assert (response.status_code, response.json()["code"]) == (409, "recalibration-not-open")


@s3_group
@pytest.mark.parametrize(
    "end",
    ["/data2/x.npy", "/dat/x.npy", "/data/../secret/x.npy", "/data", "/data/", "/data//x.npy"],
)
def test_other_objects_are_forbidden(importer: Api, bucket: str, end: str) -> None:
    name = importer.open()
    response = importer.http.post(
        f"/v1/recalibrations/{name}/batches:import", json={"urls": [f"{bucket}{end}"]}
    )
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    "url", ["s3://bucket/x.npy", "file:///etc/passwd", "http://169.254.169.254/x.npy", "/etc/x"]
)
def test_nothing_is_imported_by_default(api: Api, url: str) -> None:
    name = api.open()
    response = api.http.post(f"/v1/recalibrations/{name}/batches:import", json={"urls": [url]})
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


def test_only_object_stores_are_allowed_prefixes() -> None:
    with pytest.raises(StartError, match="BNRECAL_IMPORT_PREFIXES"):
        ImportSources("file:///data")
    with pytest.raises(ForbiddenError):
        ImportSources("").find("s3://bucket/x")


def test_ranges_in_urls() -> None:
    found = references(["s3://b/{08..11}.tar", "s3://b/x.npy", "s3://b/{1..2}/{0..1}.npy"], 5)
    assert [one.url.removeprefix("s3://b/") for one in found] == [
        *("08.tar", "09.tar", "10.tar", "11.tar", "x.npy"),
        *("1/0.npy", "1/1.npy", "2/0.npy", "2/1.npy"),
    ]
    assert [one.index for one in found] == list(range(5, 14))


@pytest.mark.parametrize("urls", [["s3://b/{0..999999999}"], ["s3://b/{0..99999}{0..99999}"]])
def test_number_of_objects_is_limited(urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "MAX_OBJECTS", 1000)
    with pytest.raises(RequestInvalidError, match="1000 objects"):
        references(urls, 0)


@pytest.mark.parametrize("end", ["{9..0}.npy", "{0..999999999}/{1..0}", "{1..0}{0..999999999}"])
@pytest.mark.timeout(20)
def test_empty_range_is_an_error(end: str) -> None:
    with pytest.raises(RequestInvalidError, match="no object"):
        references([f"s3://b/{end}"], 0)


@pytest.mark.timeout(20)
def test_many_ranges_of_one_number_cost_nothing() -> None:
    url = "{00..99999}" + "{01..1}" * 250 + "-{7..7}"
    found = references([url], 0)
    assert [found[0].url, found[-1].url] == ["00" + "01" * 250 + "-7", "99999" + "01" * 250 + "-7"]


def test_largest_index_is_limited() -> None:
    with pytest.raises(RequestInvalidError, match="9999999"):
        references(["s3://b/{0..1}"], 9_999_999)
