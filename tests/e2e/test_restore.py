"""Backups as docs/operations.md describes them, and what a lost database looks like."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.admin.command import main
from service.storage.blobs.object_client import ObjectClient
from tests.support.postgres import Cluster, cluster
from tests.support.s3 import ObjectServer
from tests.support.service_http import safetensors
from tests.support.service_process import Server, images, network, running
from tests.support.waiting import until

pytestmark = pytest.mark.xdist_group("s3")

SETTINGS = {"lease_seconds": 2.0, "poll_seconds": 0.2, "worker_threads": 1}
FOLDERS = ("models", "recalibrations")


@pytest.fixture(scope="module")
def database() -> Iterator[Cluster]:
    with cluster() as found:
        yield found


def dump(url: str, path: Path) -> None:
    program(url, "pg_dump", "--format=custom", f"--file={path}", f"--dbname={url}")


def restore(url: str, path: Path) -> None:
    program(url, "pg_restore", "--exit-on-error", "--no-owner", f"--dbname={url}", str(path))


def program(url: str, name: str, *words: str) -> None:
    (newest, *_) = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    done = subprocess.run([newest, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (url, done.stderr)


def copy_bucket(source: str, target: str) -> None:
    """Copy all objects, as `rclone copy` or `aws s3 sync` do."""
    old, new = ObjectClient(source), ObjectClient(target)
    for key, _ in old.objects(""):
        new.put(key, old.read(key, 0, old.size(key)))


def acknowledged(server: Server) -> tuple[str, str, bytes]:
    """Return a finished recalibration, an open one with two batches, and the model of the first."""
    done = server.api.open(network())
    opened = server.api.open(network())
    for name in (done, opened):
        for index in range(2):
            sent = server.api.put(name, index, safetensors(x=images(index)))
            assert sent.status_code == 201
    assert server.api.start(done, 2).status_code == 202
    assert server.api.wait(done)["state"] == "succeeded"
    return done, opened, server.api.get(done, "/model").content


def check_restored(server: Server, done: str, opened: str, model: bytes) -> None:
    assert server.api.get(done, "/model").content == model
    # The batch that arrived after the backup is missing: the client sends it again.
    assert server.api.get(opened).json()["batches"]["received"] == 2
    assert server.api.put(opened, 0, safetensors(x=images(0))).status_code == 200
    assert server.api.start(opened, 2).status_code == 202
    assert server.api.wait(opened)["state"] == "succeeded"
    assert server.api.get(opened, "/model").content == model


def test_postgresql_and_folder(
    database: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, restored = tmp_path / "data", tmp_path / "restored"
    ledger, new = database.create(), database.create()
    with running(data, ledger=ledger, **SETTINGS) as server:
        done, opened, model = acknowledged(server)
        until(lambda: not list(data.glob(f"recalibrations/{done}/batches/*")), seconds=60)
        dump(ledger, tmp_path / "ledger.dump")
        for folder in FOLDERS:
            shutil.copytree(data / folder, restored / folder)
        assert server.api.put(opened, 2, safetensors(x=images(2))).status_code == 201
    restore(new, tmp_path / "ledger.dump")
    monkeypatch.setenv("BNRECAL_LEDGER", new)
    assert main(["--data-dir", str(restored), "check"]) == 0
    with running(restored, ledger=new, **SETTINGS) as server:
        check_restored(server, done, opened, model)


def test_postgresql_and_bucket(
    database: Cluster, s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, new = database.create(), database.create()
    source, target = (f"s3://{s3.bucket()}/prefix" for _ in range(2))
    with running(tmp_path / "data", ledger=ledger, blobs=source, **SETTINGS) as server:
        done, opened, model = acknowledged(server)
        until(lambda: not ObjectClient(source).names(f"recalibrations/{done}/batches"), seconds=60)
        dump(ledger, tmp_path / "ledger.dump")
        copy_bucket(source, target)
        assert server.api.put(opened, 2, safetensors(x=images(2))).status_code == 201
    restore(new, tmp_path / "ledger.dump")
    monkeypatch.setenv("BNRECAL_LEDGER", new)
    monkeypatch.setenv("BNRECAL_BLOBS", target)
    (tmp_path / "restored").mkdir()
    assert main(["--data-dir", str(tmp_path / "restored"), "check"]) == 0
    with running(tmp_path / "restored", ledger=new, blobs=target, **SETTINGS) as server:
        check_restored(server, done, opened, model)


def test_a_missing_object_of_the_copy_is_reported(
    database: Cluster, s3: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, url = database.create(), f"s3://{s3.bucket()}/prefix"
    with running(tmp_path / "data", ledger=ledger, blobs=url, **SETTINGS) as server:
        _, opened, _ = acknowledged(server)
    client = ObjectClient(url)
    # Those of the finished recalibration are removed, maybe at the next start of the server.
    lost = next(key for key, _ in client.objects("") if f"{opened}/batches" in key)
    client.remove([lost])
    monkeypatch.setenv("BNRECAL_LEDGER", ledger)
    monkeypatch.setenv("BNRECAL_BLOBS", url)
    assert main(["--data-dir", str(tmp_path / "data"), "check"]) == 1


def samples(server: Server) -> dict[tuple[str, str], float]:
    """Return the samples of `/metrics` by name and value of the only label."""
    text = server.http.get("/metrics").raise_for_status().text
    return {
        (one.name, "".join(one.labels.values())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_metrics_show_a_lost_database(tmp_path: Path) -> None:
    """As the table in docs/operations.md says."""
    with (
        cluster() as database,
        running(tmp_path / "data", ledger=database.create(), **SETTINGS) as server,
    ):
        name = server.api.open(network())
        until(lambda: ("bnrecal_stored_bytes", "") in samples(server), lambda: "nobody leads")
        database.stop("immediate")
        sent = server.api.put(name, 0, safetensors(x=images(0)))
        assert (sent.status_code, sent.json()["code"]) == (503, "ledger-unavailable")
        assert server.http.get("/healthz").status_code == 200
        assert server.http.get("/readyz").status_code == 503
        found = samples(server)
        assert found["bnrecal_problems_total", "ledger-unavailable"] >= 1
        assert ("bnrecal_stored_bytes", "") not in found
        database.start()
        until(lambda: server.http.get("/readyz").status_code == 200, lambda: server.log, seconds=60)
        assert server.api.put(name, 0, safetensors(x=images(0))).status_code == 201
        until(lambda: ("bnrecal_stored_bytes", "") in samples(server), lambda: "nobody leads")
        assert samples(server)["bnrecal_storage_failed", "ledger"] == 0
