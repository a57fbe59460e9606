"""Servers in processes of their own with their blobs in S3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from service.admin.command import main
from service.storage.blobs.object_client import ObjectClient
from tests.support.s3 import ObjectServer
from tests.support.service_http import safetensors
from tests.support.service_process import Server, images, network, running
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("s3")

SETTINGS = {"lease_seconds": 2.0, "poll_seconds": 0.2, "worker_threads": 1}
RESULTS = ("/model", "/model?variant=unfolded", "/statistics")
BATCHES = 6


@pytest.fixture
def url(s3: ObjectServer) -> str:
    return f"s3://{s3.bucket()}/prefix"


def body(index: int) -> bytes:
    """Return a batch; every third is too large for a pack."""
    return safetensors(x=images(index, samples=600 if index % 3 == 2 else 8))


def opened(server: Server, model: bytes | None = None, **options: object) -> str:
    name = server.api.open(model or network(), **options)
    with ThreadPoolExecutor(BATCHES) as pool:
        sent = list(
            pool.map(lambda index: server.api.put(name, index, body(index)), range(BATCHES))
        )
    assert {one.status_code for one in sent} == {201}
    return name


def results(server: Server, name: str) -> list[bytes]:
    assert server.api.wait(name)["state"] == "succeeded"
    return [server.api.get(name, path).content for path in RESULTS]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Return the results of a server with a folder."""
    with running(tmp_path_factory.mktemp("folder") / "data", **SETTINGS) as server:
        name = opened(server)
        assert server.api.start(name, BATCHES).status_code == 202
        return results(server, name)


def objects(url: str) -> list[str]:
    return sorted(key for key, _ in ObjectClient(url).objects(""))


def checked(data: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("BNRECAL_BLOBS", url)
    found = main(["--data-dir", str(data), "check"]) == 0
    monkeypatch.delenv("BNRECAL_BLOBS")
    return found


def test_same_bytes_as_with_a_folder(
    url: str, tmp_path: Path, expected: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tmp_path / "data", blobs=url, **SETTINGS) as server:
        name = opened(server, keep_data=True)
        assert server.api.start(name, BATCHES).status_code == 202
        assert results(server, name) == expected
        part = server.api.get(name, "/model", Range="bytes=10-19")
        assert (part.status_code, part.content) == (206, expected[0][10:20])
        assert checked(tmp_path / "data", url, monkeypatch)
        local = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert {path.name.partition(".")[0] for path in local if path.stat().st_size} == {"ledger"}
        assert server.http.delete(f"/v1/recalibrations/{name}").status_code == 204
        assert [key for key in objects(url) if name in key] == []
        model = server.http.get("/v1/models").json()["items"][0]["id"]
        assert server.http.delete(f"/v1/models/{model}").status_code == 204
        assert objects(url) == ["ledger"]


def test_run_continues_on_another_machine(url: str, tmp_path: Path, expected: list[bytes]) -> None:
    """Only ledger and bucket are shared; the scratch files of the first server are lost."""
    with running(tmp_path / "data", blobs=url, **SETTINGS) as server:
        name = opened(server)
        server.kill()
    moved = tmp_path / "other/data"
    moved.mkdir(parents=True)
    for path in (tmp_path / "data").glob("ledger.sqlite3*"):
        path.rename(moved / path.name)
    with running(moved, blobs=url, **SETTINGS) as server:
        assert server.api.put(name, 0, body(0)).status_code == 200
        assert server.api.start(name, BATCHES).status_code == 202
        assert results(server, name) == expected


def test_worker_has_no_credentials(s3: ObjectServer, url: str, tmp_path: Path) -> None:
    large = network(size=64, repeats=8)
    with running(tmp_path / "data", blobs=url, **SETTINGS) as server:
        name = server.api.open(large)
        assert server.api.put(name, 0, safetensors(x=images(0, 64, size=64))).status_code == 201
        assert server.http.get("/readyz").status_code == 200
        assert server.api.start(name, 1).status_code == 202
        workers = until(lambda: started(server), lambda: "no run has started")
        for worker in workers:
            assert not leaked(worker.environ(), s3.environment)
            assert not leaked(dict.fromkeys(worker.cmdline(), ""), s3.environment)
        assert server.api.wait(name)["state"] == "succeeded"
    log = (tmp_path / "server.log").read_text()
    assert s3.environment["AWS_SECRET_ACCESS_KEY"] not in log


def started(server: Server) -> list[psutil.Process]:
    """Return the workers that run; between fork and exec, a child has its parent's environment."""
    return [one for one in server.workers() if "service.workers.child" in one.cmdline()]


def leaked(found: Mapping[str, str], secrets: Mapping[str, str]) -> set[str]:
    return set(found) & set(secrets) | set(found.values()) & set(secrets.values())


def test_killed_between_object_and_row(url: str, tmp_path: Path, expected: list[bytes]) -> None:
    """The client sends the batch again; the object without a row does no harm."""
    with running(tmp_path / "data", blobs=url, **SETTINGS) as server:
        name = server.api.open(network())
        before = len(objects(url))
        process = psutil.Process(server.process.pid)
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(server.api.put, name, 2, body(2))
            until(lambda: len(objects(url)) > before, pause=0)
            process.kill()
            answered = sending.exception() is None
    with running(tmp_path / "data", blobs=url, **SETTINGS) as server:
        listed = server.api.get(name, "/batches").json()["items"]
        assert not answered or [one["index"] for one in listed] == [2]
        for index in range(BATCHES):
            assert server.api.put(name, index, body(index)).status_code in {200, 201}
        assert server.api.start(name, BATCHES).status_code == 202
        assert results(server, name) == expected


def test_redirect_to_signed_url(
    s3: ObjectServer, url: str, tmp_path: Path, expected: list[bytes]
) -> None:
    settings = {**SETTINGS, "result_url_seconds": 60}
    with running(tmp_path / "data", blobs=url, **settings) as server:
        name = opened(server)
        assert server.api.start(name, BATCHES).status_code == 202
        assert server.api.wait(name)["state"] == "succeeded"
        response = server.api.get(name, "/model")
        assert response.status_code == 307
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Location"].startswith(s3.endpoint)
        followed = server.http.get(f"/v1/recalibrations/{name}/model", follow_redirects=True)
        assert followed.content == expected[0]
        assert server.http.head(f"/v1/recalibrations/{name}/model").status_code == 200
        assert server.api.get(name, "/report").status_code == 200


def test_another_ledger_does_not_start_on_the_same_prefix(
    s3: ObjectServer, url: str, tmp_path: Path
) -> None:
    assert s3.endpoint
    with running(tmp_path / "data", blobs=url, **SETTINGS) as server:
        name = opened(server)
    words = [sys.executable, "-m", "service", "--port", "0", "--data-dir", str(tmp_path / "other")]
    done = subprocess.run(
        words,
        env={**os.environ, "BNRECAL_BLOBS": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    *logs, line = done.stderr.splitlines()
    assert {json.loads(one)["level"] for one in logs} == {"info"}
    assert line.startswith(f"bnrecal does not start: {url} belongs to the ledger")
    assert [key for key in objects(url) if name in key]
