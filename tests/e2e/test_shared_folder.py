"""Several server processes on one data folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from service.admin.command import main
from tests.support.service_http import safetensors
from tests.support.service_process import Server, images, network, running
from tests.support.waiting import until

SETTINGS = {"lease_seconds": 2.0, "poll_seconds": 0.2, "worker_threads": 1}


@contextmanager
def pair(data: Path, **settings: object) -> Iterator[tuple[Server, Server]]:
    with ExitStack() as stack:
        servers = []
        for _ in range(2):
            server = Server(data, **SETTINGS, **settings)
            stack.callback(server.kill)
            # Afterwards the worker that reports the sandbox has ended.
            assert server.http.get("/readyz").status_code == 200
            servers.append(server)
        yield servers[0], servers[1]


def by_run(servers: tuple[Server, Server]) -> tuple[Server, Server]:
    """Wait until a run has a worker; return the server that has it, and the other one."""
    until(lambda: any(one.workers() for one in servers), lambda: "no run has started")
    first, second = servers
    return (first, second) if first.workers() else (second, first)


def checked(data: Path) -> bool:
    return main(["--data-dir", str(data), "check"]) == 0


def body(seed: int) -> bytes:
    return safetensors(x=images(seed))


def opened(server: Server, batches: int, model: bytes | None = None) -> str:
    name = server.api.open(model or network())
    for index in range(batches):
        assert server.api.put(name, index, body(index)).status_code == 201
    return name


def results(server: Server, name: str) -> list[bytes]:
    return [server.api.get(name, path).content for path in ("/model", "/statistics")]


def test_requests_through_either_server(tmp_path: Path) -> None:
    with pair(tmp_path / "data") as (first, second):
        name = first.api.open(network())
        for index in range(6):
            server = (first, second)[index % 2]
            assert server.api.put(name, index, body(index)).status_code == 201
        assert second.api.put(name, 0, body(0)).status_code == 200
        assert first.api.put(name, 1, body(0)).json()["code"] == "batch-conflict"
        assert second.api.start(name, 6).status_code == 202
        assert first.api.wait(name)["state"] == "succeeded"
        assert results(first, name) == results(second, name)
        assert second.http.delete(f"/v1/recalibrations/{name}").status_code == 204
        assert first.api.get(name).status_code == 404
        model = first.http.get("/v1/models").json()["items"][0]["id"]
        assert first.http.delete(f"/v1/models/{model}").status_code == 204
        assert second.http.delete(f"/v1/models/{model}").status_code == 404
        assert second.api.upload_model(network()).status_code == 201
        assert checked(tmp_path / "data")


def test_concurrent_appends_keys_and_seal(tmp_path: Path) -> None:
    with pair(tmp_path / "data") as servers, ThreadPoolExecutor(8) as pool:
        name = servers[0].api.open(network())

        def append(number: int) -> int:
            answer = servers[number % 2].api.append(
                name, body(number // 2), **{"Idempotency-Key": f"key {number // 2}"}
            )
            assert answer.status_code in {200, 201}, answer.text
            return int(answer.json()["index"])

        # Each key is sent through both servers at the same time.
        indices = list(pool.map(append, range(40)))
        assert indices[0::2] == indices[1::2]
        assert sorted(set(indices)) == list(range(20))

        def create(number: int) -> str:
            model = servers[0].http.get("/v1/models").json()["items"][0]["id"]
            answer = servers[number % 2].http.post(
                "/v1/recalibrations", json={"model": model}, headers={"Idempotency-Key": "one"}
            )
            return str(answer.json()["id"])

        assert len(set(pool.map(create, range(16)))) == 1

        late: list[int] = []

        def fill() -> None:
            for index in range(20, 400):
                answer = servers[1].api.put(name, index, body(0))
                if answer.status_code != 201:
                    assert answer.json()["code"] == "recalibration-not-open"
                    return
                late.append(index)

        thread = threading.Thread(target=fill)
        thread.start()
        total = 0
        for _ in range(200):
            total = servers[0].api.get(name).json()["batches"]["received"]
            answer = servers[0].api.start(name, total)
            if answer.status_code == 202:
                break
            assert answer.json()["code"] in {"batches-unexpected", "batches-missing"}
        thread.join()
        # Every acknowledged batch is part of the sealed stream, and no other.
        assert total == 20 + len(late)
        assert servers[1].api.get(name).json()["batches"]["received"] == total


def test_cancel_and_delete_in_the_other_server(tmp_path: Path) -> None:
    slow = network(size=64, repeats=40)
    with pair(tmp_path / "data") as servers:
        for end in ("cancel", "delete"):
            name = servers[0].api.open(slow)
            for index in range(30):
                content = safetensors(x=images(index, samples=16, size=64))
                servers[0].api.put(name, index, content)
            assert servers[0].api.start(name, 30).status_code == 202
            owner, other = by_run(servers)
            path = f"/v1/recalibrations/{name}"
            if end == "cancel":
                assert other.http.post(f"{path}/cancel").status_code == 202
            else:
                assert other.http.delete(path).status_code == 204
            until(lambda: not owner.workers(), lambda: "the worker still runs", seconds=30)  # noqa: B023
            found = owner.api.get(name)
            assert found.status_code == 404 or found.json()["state"] == "cancelled"


@pytest.mark.parametrize("victim", ["owner", "other"])
def test_kill_of_either_server(tmp_path: Path, victim: str) -> None:
    slow = network(size=64, repeats=24)
    contents = [safetensors(x=images(index, samples=16, size=64)) for index in range(24)]
    with pair(tmp_path / "data") as servers:
        expected = servers[0].api.open(slow)
        for index, content in enumerate(contents):
            servers[0].api.put(expected, index, content)
        servers[0].api.start(expected, len(contents))
        assert servers[0].api.wait(expected)["state"] == "succeeded"
        name = servers[0].api.open(slow)
        for index, content in enumerate(contents):
            servers[index % 2].api.put(name, index, content)
        servers[0].api.start(name, len(contents))
        owner, other = by_run(servers)
        killed, left = (owner, other) if victim == "owner" else (other, owner)
        killed.kill()
        found = left.api.wait(name)
        assert (found["state"], found["attempts"]) == ("succeeded", 2 if killed is owner else 1)
        assert results(left, name) == results(left, expected)
        # The process that is left leads, and reports what both have in common.
        until(
            lambda: "bnrecal_recalibrations{" in left.http.get("/metrics").text,
            lambda: "the other server does not lead",
        )
        assert checked(tmp_path / "data")


def test_stopped_server_loses_its_run(tmp_path: Path) -> None:
    slow = network(size=64, repeats=24)
    with pair(tmp_path / "data") as servers:
        name = servers[0].api.open(slow)
        for index in range(24):
            servers[0].api.put(name, index, safetensors(x=images(index, samples=16, size=64)))
        servers[0].api.start(name, 24)
        owner, other = by_run(servers)
        processes = [*owner.workers(), psutil.Process(owner.process.pid)]
        for process in processes:
            process.suspend()
            time.sleep(0.3)  # no more progress is written when the server is stopped
        found = other.api.wait(name)
        assert (found["state"], found["attempts"]) == ("succeeded", 2)
        before = results(other, name)
        for process in processes:
            process.resume()
        until(lambda: not owner.workers(), lambda: "the worker still runs", seconds=60)
        time.sleep(0.5)
        again = other.api.get(name).json()
        assert (again["state"], again["attempts"]) == ("succeeded", 2)
        assert results(other, name) == before
        assert results(owner, name) == before
        assert checked(tmp_path / "data")


def test_start_removes_scratch_files_of_ended_processes_only(tmp_path: Path) -> None:
    data = tmp_path / "data"

    def folders() -> set[str]:
        return {path.name for path in (data / "staging").iterdir() if path.is_dir()}

    with pair(data) as (first, second):
        assert len(folders()) == 2
        second.kill()
        left = folders()
        with running(data, **SETTINGS) as third:
            assert len(left & folders()) == 1
            assert opened(first, 1) != opened(third, 1)
