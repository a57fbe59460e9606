"""Servers and runners that measure the runs in shards, over HTTP."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.namespaces import other_processor, unsupported_reason
from tests.support.ray_nodes import REQUIRED, ray_nodes
from tests.support.s3 import ObjectServer
from tests.support.service_http import safetensors
from tests.support.service_process import Server, images, network, running

SETTINGS = {"lease_seconds": 2.0, "poll_seconds": 0.2, "worker_threads": 1}
needs_ray = pytest.mark.skipif(not REQUIRED, reason="set BNRECAL_TEST_RAY=1 to start Ray nodes")
RESULTS = ("/model", "/model?variant=unfolded", "/statistics")
BATCHES = 6
SAMPLES = 40


def done(server: Server) -> dict[str, Any]:
    """Do a recalibration; every batch but one is small enough for a pack."""
    name = server.api.open(network(repeats=3))
    for index in range(BATCHES):
        count = 600 if index == 2 else SAMPLES
        content = safetensors(x=images(index, samples=count))
        assert server.api.put(name, index, content).status_code == 201
    assert server.api.start(name, BATCHES).status_code == 202
    found: dict[str, Any] = server.api.wait(name)
    return found


def results(server: Server) -> list[bytes]:
    """Return the results of a recalibration."""
    found = done(server)
    assert found["state"] == "succeeded", found["error"]
    return [server.api.get(found["id"], path).content for path in RESULTS]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Return the results of a server that does each run in one worker."""
    with running(tmp_path_factory.mktemp("one") / "data", **SETTINGS) as server:
        return results(server)


def test_a_server_in_shards_gives_the_same_results(tmp_path: Path, expected: list[bytes]) -> None:
    with running(tmp_path / "data", shards=3, **SETTINGS) as server:
        assert results(server) == expected
        (found,) = server.http.get("/v1/recalibrations").json()["items"]
        measured = server.api.get(found["id"], "/layers").json()
    assert {one["name"] for one in measured["layers"]} == {"bn0", "bn1", "bn2"}


@contextmanager
def runner(data: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run a runner for the duration of a `with` block."""
    with (data.parent / "runner.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service", "--runner", "--data-dir", str(data)],
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
        )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "bnrecal runner is ready\n"
        yield
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()


@needs_ray
@pytest.mark.xdist_group("ray")
def test_nodes_with_different_processors_are_refused(tmp_path: Path) -> None:
    if (reason := unsupported_reason()) is not None:
        pytest.skip(f"without namespaces: {reason}")
    data = tmp_path / "data"
    settings = {**SETTINGS, "shards": 2, "runner": "ray", "worker_memory_bytes": 1 << 30}
    # Each node has room for one shard.
    with (
        ray_nodes(count=1, cpus=1) as cluster,
        running(data, max_concurrent_runs=0, **SETTINGS) as server,
    ):
        cluster.add(within=other_processor(tmp_path, "avx2"))
        environment = {"PATH": "/usr/bin:/bin", **cluster.environment}
        environment |= {f"BNRECAL_{key.upper()}": str(value) for key, value in settings.items()}
        with runner(data, environment):
            found = done(server)
    assert found["state"] == "failed"
    assert found["attempts"] == 1
    assert found["error"]["code"] == "shard-mismatch"
    sentence = found["error"]["detail"]
    assert re.search(r"differ in processor \(.* and .*\), so their moments differ", sentence)
    assert sentence.count(" avx2 ") == 1


@needs_ray
@pytest.mark.xdist_group("s3")
def test_nodes_fetch_their_parts_from_object_storage(
    s3: ObjectServer, tmp_path: Path, expected: list[bytes]
) -> None:
    data = tmp_path / "data"
    shared: dict[str, object] = {"blobs": f"s3://{s3.bucket()}/prefix", **SETTINGS}
    settings = {**shared, "shards": 3, "runner": "ray", "worker_memory_bytes": 1 << 30}
    with (
        ray_nodes(environment=s3.environment) as cluster,
        running(data, max_concurrent_runs=0, **shared) as server,
    ):
        environment = {"PATH": "/usr/bin:/bin", **s3.environment, **cluster.environment}
        environment |= {f"BNRECAL_{key.upper()}": str(value) for key, value in settings.items()}
        with runner(data, environment):
            assert results(server) == expected
    log = (tmp_path / "runner.log").read_text()
    assert "ray-connected" in log
