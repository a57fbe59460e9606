"""Untrusted files sent to a real server with real workers are rejected or contained.

All tests share the server, so damage by one file would affect the following ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.support.hostile_batches import BATCHES, CODES, HostileBatch
from tests.support.hostile_models import (
    HTML,
    MODELS,
    HostileModel,
    bn_model,
    endless_loop,
    html_model,
    memory_bomb,
    nan_maker,
)
from tests.support.service_http import safetensors, scratch_files
from tests.support.service_process import Server, running

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("hostile")]
SERVER_LIMIT_BYTES = 200 << 20
LEFT = Path("/tmp/bnrecal-hostile")
SETTINGS = {
    "worker_timeout_seconds": 20,
    "worker_memory_bytes": 2 << 30,
    "frontier_spill_bytes": 64 << 20,
    "worker_threads": 1,
    "max_worker_crashes": 1,
    "batch_limit_bytes": 8 << 20,
    "max_concurrent_runs": 2,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    assert not LEFT.exists()
    with running(folder / "data", **SETTINGS) as found:
        process = psutil.Process(found.process.pid)
        sockets = listening(process)
        outside = tree(folder, but="data")
        yield found
        assert found.http.get("/healthz").status_code == 200
        workers = process.children(recursive=True)
        assert all("service.workers.child" in one.cmdline() for one in workers)
        assert listening(process) == sockets
        assert tree(folder, but="data") == outside
        assert not LEFT.exists()
        assert process.memory_info().rss < SERVER_LIMIT_BYTES
        # Only accepted models are stored.
        accepted = {one["id"] for one in found.http.get("/v1/models?limit=1000").json()["items"]}
        stored = {one.name.partition("-")[0] for one in (folder / "data/models").iterdir()}
        assert stored == accepted
        assert found.stop() == 0
        assert not any(one.is_running() for one in workers)
        assert scratch_files(folder / "data") == []


def listening(process: psutil.Process) -> set[str]:
    found = process.net_connections(kind="all")
    return {str(one.laddr) for one in found if one.status == psutil.CONN_LISTEN}


def tree(folder: Path, *, but: str) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.relative_to(folder).parts[0] != but
    }


@pytest.fixture(scope="module")
def answers(server: Server) -> dict[str, httpx.Response]:
    """Upload all models, several at a time: most of the time is the start of workers."""
    with ThreadPoolExecutor(2) as pool:
        sent = pool.map(lambda one: server.api.upload_model(one.content), MODELS)
        return {one.name: answer for one, answer in zip(MODELS, sent, strict=True)}


@pytest.fixture(scope="module")
def opened(server: Server) -> str:
    return server.api.open(bn_model())


@pytest.mark.parametrize("case", MODELS, ids=lambda one: one.name)
def test_hostile_models(case: HostileModel, answers: dict[str, httpx.Response]) -> None:
    answer = answers[case.name]
    found = "accepted" if answer.is_success else answer.json()["code"]
    assert found in case.allowed, answer.text[:500]
    assert answer.status_code < 500
    assert len(answer.content) < 5 << 20


@pytest.mark.parametrize("case", BATCHES, ids=lambda one: f"{one.kind} {one.name}")
def test_hostile_batches(case: HostileBatch, server: Server, opened: str) -> None:
    headers = {"Content-Type": case.kind.replace("\x00", "%00")}
    if case.encoding is not None:
        headers["Content-Encoding"] = case.encoding
    answer = server.api.put(opened, 0, case.content, headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["code"] in CODES, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert server.api.get(opened).json()["batches"]["received"] == 0


@pytest.fixture(scope="module")
def runs(server: Server) -> dict[str, dict[str, Any]]:
    """Run the models that are harmful only at run time, concurrently."""
    made = {"memory": memory_bomb(), "loop": endless_loop(), "nan": nan_maker()}
    names = {}
    for kind, content in made.items():
        answer = server.api.upload_model(content)
        if not answer.is_success:
            names[kind] = ""
            continue
        names[kind] = server.api.open(content)
        batch = np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype(np.float32)
        assert server.api.put(names[kind], 0, safetensors(x=batch)).status_code == 201
        server.api.start(names[kind], 1)
    return {kind: server.api.wait(name, seconds=180) for kind, name in names.items() if name}


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("memory", {"resource-limit", "engine-failed", "worker-died"}),
        ("loop", {"worker-deadline", "engine-failed"}),
        ("nan", {"layer-not-finite"}),
    ],
)
def test_resource_exhaustion_fails_only_its_run(
    kind: str, codes: set[str], runs: dict[str, dict[str, Any]], server: Server
) -> None:
    found = runs[kind]
    assert found["state"] == "failed", found
    assert found["error"]["code"] in codes, found["error"]
    assert server.http.get("/readyz").status_code == 200


def test_script_in_layer_name_is_escaped(server: Server) -> None:
    content = html_model()
    described = server.api.upload_model(content)
    assert described.json()["layers"][0]["name"] == HTML
    name = server.api.open(content)
    batch = np.random.default_rng(0).normal(size=(4, 3, 4, 4)).astype(np.float32)
    server.api.put(name, 0, safetensors(x=batch))
    server.api.start(name, 1)
    assert server.api.wait(name, seconds=60)["state"] == "succeeded"
    page = server.api.get(name, "/report", Accept="text/html")
    assert "alert(1)" in page.text
    # The page has a script of its own, but none from the model.
    assert "<script>alert" not in page.text
    assert "<img" not in page.text
    assert "&lt;script&gt;alert" in page.text
    assert "sandbox" in page.headers["Content-Security-Policy"]
    wrong = server.http.post(
        "/v1/recalibrations", json={"model": described.json()["id"], "layers": [HTML + "*"]}
    )
    assert wrong.headers["content-type"] in {"application/problem+json", "application/json"}


@pytest.mark.parametrize(
    "asked",
    [
        {"model": "../../../etc/passwd"},
        {"model": "\x00" * 64},
        {"model": "a" * 100_000},
        {"layers": ["*a" * 20_000]},
        {"layers": ["[" * 20_000]},
        {"layers": ["[" * 500]},
        {"layers": ["*a" * 60] * 2000},
        {"layers": ["\ud800"]},
        {"\ud800": 1},
        {"estimator": {"name": "prior", "\udfff": 1}},
        {"estimator": {"name": "prior", "samples": float("inf")}},
        {"estimator": {"name": "prior", "samples": -1}},
        {"estimator": {"name": ["replace"]}},
        {"estimator": {"name": "replace", "__class__": "os"}},
        {"method": "exact; DROP TABLE batch"},
    ],
    ids=lambda one: repr(one)[:40],
)
def test_hostile_options(asked: dict[str, Any], server: Server, opened: str) -> None:
    model = server.api.get(opened).json()["model"]
    body = json.dumps({"model": model, **asked}).encode()
    kind = {"Content-Type": "application/json"}
    answer = server.http.post("/v1/recalibrations", content=body, headers=kind, timeout=60.0)
    assert 400 <= answer.status_code < 500, answer.text[:300]
    assert "code" in answer.json()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/recalibrations/..%2f..%2fetc%2fpasswd",
        "/v1/recalibrations/%00/model",
        "/v1/models/%ff%fe",
        "/v1/recalibrations/x/batches/99999999999999999999",
        "/v1/recalibrations/x/batches?after=-1",
        "/v1/recalibrations/x/batches?after=%D9%A3",
        "/v1/models?limit=1000000000000000000000",
        "/v1/recalibrations?after=9223372036854775807999",
        "/" + "a" * 60_000,
    ],
    ids=lambda one: one[:40],
)
def test_hostile_paths(path: str, server: Server) -> None:
    answer = server.http.get(path)
    assert 400 <= answer.status_code < 500, answer.text[:300]


def test_corpus_size() -> None:
    assert len(MODELS) + len(BATCHES) >= 60
