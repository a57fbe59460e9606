"""Sealed recalibrations wait until the memory for their run is available."""

from __future__ import annotations

from typing import Any

import pytest

from service.settings import Settings
from service.workers.process import limits
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, StartServer

GIB = 1 << 30


def sealed(api: Api, **options: Any) -> str:
    name = api.open(**options)
    api.put(name, 0)
    assert api.start(name, 1).status_code == 202
    return name


def states(api: Api, names: list[str]) -> list[str]:
    return [str(api.get(name).json()["state"]) for name in names]


def test_start_without_memory_limit(api: Api) -> None:
    name = sealed(api)
    api.wait(name)
    lines = api.get(name, "/events").text.splitlines()
    sealed_events = [line for line in lines if '"state":"sealed"' in line]
    assert len(sealed_events) == 1
    assert api.get(name).json()["options"]["memory_bytes"] is None


def test_sealed_recalibration_waits_for_memory(
    start_server: StartServer, executor: FakeExecutor
) -> None:
    executor.hold = True
    api = start_server(
        max_concurrent_runs=3, worker_memory_bytes=4 * GIB, runs_memory_bytes=8 * GIB
    )
    names = [sealed(api) for _ in range(4)]
    for name in names[:2]:
        api.wait(name, "running")
    assert states(api, names) == ["running", "running", "sealed", "sealed"]
    assert api.put(names[2], 1).json()["code"] == "recalibration-not-open"
    api.http.post(f"/v1/recalibrations/{names[0]}/cancel")
    api.wait(names[2], "running")
    assert states(api, names) == ["cancelled", "running", "running", "sealed"]
    api.http.delete(f"/v1/recalibrations/{names[1]}")
    api.wait(names[3], "running")


def test_small_run_waits_behind_large_run(
    start_server: StartServer, executor: FakeExecutor
) -> None:
    executor.hold = True
    api = start_server(
        max_concurrent_runs=9, worker_memory_bytes=4 * GIB, runs_memory_bytes=5 * GIB
    )
    names = [sealed(api, memory_bytes=2 * GIB) for _ in range(2)]
    names += [sealed(api), sealed(api, memory_bytes=GIB)]
    for name in names[:2]:
        api.wait(name, "running")
    # The last one would fit, but it waits behind the large one.
    assert states(api, names) == ["running", "running", "sealed", "sealed"]
    for name in names[:2]:
        api.http.post(f"/v1/recalibrations/{name}/cancel")
    api.wait(names[2], "running")
    api.wait(names[3], "running")


def test_oversized_run_runs_alone(start_server: StartServer, executor: FakeExecutor) -> None:
    executor.hold = True
    api = start_server(
        max_concurrent_runs=2, worker_memory_bytes=4 * GIB, runs_memory_bytes=3 * GIB
    )
    names = [sealed(api) for _ in range(2)]
    api.wait(names[0], "running")
    assert states(api, names) == ["running", "sealed"]


def test_process_without_room_leaves_the_run_to_another(
    start_server: StartServer, executor: FakeExecutor
) -> None:
    executor.hold = True
    limits = {"worker_memory_bytes": 4 * GIB, "runs_memory_bytes": 16 * GIB, "poll_seconds": 0.05}
    api = start_server(max_concurrent_runs=9, runner_memory_bytes=5 * GIB, **limits)
    names = [sealed(api), sealed(api), sealed(api, memory_bytes=GIB)]
    api.wait(names[0], "running")
    api.wait(names[2], "queued")
    # The last one would fit, but it waits behind the one that does not.
    assert states(api, names) == ["running", "queued", "queued"]
    start_server(max_concurrent_runs=9, runner_memory_bytes=3 * GIB, **limits)
    api.wait(names[1], "running")  # alone in its process
    api.wait(names[2], "running")
    assert states(api, names) == ["running", "running", "running"]


def test_reservation_is_capped_at_worker_memory(
    start_server: StartServer, executor: FakeExecutor
) -> None:
    executor.hold = True
    api = start_server(
        max_concurrent_runs=3, worker_memory_bytes=4 * GIB, runs_memory_bytes=8 * GIB
    )
    names = [sealed(api, memory_bytes=10**15), sealed(api)]
    for name in names:
        api.wait(name, "running")
    assert states(api, names) == ["running", "running"]


def test_cancel_of_sealed_recalibration(start_server: StartServer, executor: FakeExecutor) -> None:
    executor.hold = True
    limits = {"worker_memory_bytes": 4 * GIB, "runs_memory_bytes": 4 * GIB}
    api = start_server(**limits)
    names = [sealed(api) for _ in range(3)]
    assert api.http.post(f"/v1/recalibrations/{names[1]}/cancel").status_code == 202
    assert states(api, names)[1:] == ["cancelled", "sealed"]
    model = api.get(names[2]).json()["model"]
    assert api.http.delete(f"/v1/models/{model}").json()["code"] == "model-in-use"


def test_restart_admits_sealed_recalibrations(settings: Settings) -> None:
    from service.app import create_app
    from tests.support.service_loop import serving

    limits = {"worker_memory_bytes": 4 * GIB, "runs_memory_bytes": 4 * GIB}
    executor = FakeExecutor()
    executor.hold = True
    limited = settings.model_copy(update=limits)
    with serving(create_app(limited, executor=executor)) as http:
        api = Api(http)
        names = [sealed(api) for _ in range(2)]
        api.wait(names[0], "running")
        assert states(api, names) == ["running", "sealed"]
    executor.hold = False
    with serving(create_app(limited, executor=executor)) as http:
        assert [Api(http).wait(name)["state"] for name in names] == ["succeeded", "succeeded"]


@pytest.mark.parametrize("memory", [0, -1, 1 << 20, "much"])
def test_invalid_memory_is_rejected(api: Api, memory: object) -> None:
    model = api.upload_model().json()["id"]
    asked = {"model": model, "memory_bytes": memory}
    response = api.http.post("/v1/recalibrations", json=asked)
    assert (response.status_code, response.json()["code"]) == (422, "request-invalid")


def test_worker_memory_limits() -> None:
    settings = Settings(worker_memory_bytes=8 * GIB, frontier_memory_bytes=2 * GIB)
    found = limits(settings, 60.0, 2 * GIB)
    assert (found.memory_bytes, found.frontier_memory_bytes) == (2 * GIB, GIB // 2)
    assert limits(settings, 60.0, 99 * GIB).memory_bytes == 8 * GIB
    assert limits(settings, 60.0).frontier_memory_bytes == 2 * GIB
