"""Runners: processes without HTTP that run what servers have queued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.postgres import cluster
from tests.support.s3 import ObjectServer
from tests.support.service_http import safetensors
from tests.support.service_process import Server, images, network
from tests.support.waiting import until

SETTINGS = {
    "lease_seconds": 2.0,
    "poll_seconds": 0.2,
    "worker_threads": 1,
    "runs_memory_bytes": 1 << 36,
}
BATCHES = 12
SLOW = network(size=64, repeats=24)


class Runner:
    """A runner process with a log of its own."""

    def __init__(self, data: Path, name: str, **settings: object) -> None:
        environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        environment |= {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        environment |= {f"BNRECAL_{key.upper()}": str(value) for key, value in settings.items()}
        self._path = data.parent / f"{name}.log"
        with self._path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bnrecal_client", "runner", "--data-dir", str(data)],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                text=True,
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "bnrecal runner is ready\n"
        # Afterwards the worker that reports the sandbox has ended.
        until(lambda: not self.workers(), lambda: "the sandbox is not reported")

    def workers(self) -> list[psutil.Process]:
        """Return the running worker processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def runs(self) -> list[str]:
        """Return the recalibrations that it has started."""
        lines = map(json.loads, self._path.read_text().splitlines())
        return [one["recalibration"] for one in lines if one["action"] == "run-started"]

    def end(self, how: signal.Signals) -> int:
        """Send a signal, and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@pytest.fixture(
    params=["sqlite", "postgres", pytest.param("s3", marks=pytest.mark.xdist_group("s3"))]
)
def stores(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """The settings of the ledger and the blobs that the processes share."""
    if request.param == "sqlite":
        yield {}
        return
    with cluster(fsync="off") as found:
        if request.param == "postgres":
            yield {"ledger": found.create()}
            return
        s3: ObjectServer = request.getfixturevalue("s3")
        yield {"ledger": found.create(), "blobs": f"s3://{s3.bucket()}/prefix"}


@contextmanager
def deployment(data: Path, stores: dict[str, str]) -> Iterator[tuple[Server, list[Runner]]]:
    """Run a server that runs nothing, and two runners; with S3, each has a data folder alone."""
    shared = {**SETTINGS, **stores}
    with ExitStack() as stack:
        server = Server(data, max_concurrent_runs=0, **shared)
        stack.callback(server.kill)
        runners = []
        for name in ("first", "second"):
            own = data.with_name(f"data-{name}") if "blobs" in stores else data
            runner = Runner(own, name, **shared)
            stack.callback(runner.end, signal.SIGKILL)
            runners.append(runner)
        yield server, runners


def started(server: Server) -> str:
    """Return the id of a recalibration whose run takes seconds."""
    name = server.api.open(SLOW)
    for index in range(BATCHES):
        content = safetensors(x=images(index, samples=16, size=64))
        assert server.api.put(name, index, content).status_code == 201
    assert server.api.start(name, BATCHES).status_code == 202
    return name


def results(server: Server, name: str) -> list[bytes]:
    return [server.api.get(name, path).content for path in ("/model", "/statistics")]


def test_runners_share_the_runs_and_a_killed_one_loses_nothing(
    tmp_path: Path, stores: dict[str, str]
) -> None:
    with deployment(tmp_path / "data", stores) as (server, runners):
        names = [started(server) for _ in range(2)]
        until(lambda: all(one.runs() for one in runners), lambda: "one runner has no run")
        assert not server.workers()
        victim, left = runners
        until(victim.workers, lambda: "the run has ended")
        victim.end(signal.SIGKILL)
        found = [server.api.wait(name) for name in names]
        assert [one["state"] for one in found] == ["succeeded", "succeeded"]
        lost = victim.runs()[-1]
        assert [one["attempts"] for one in found] == [2 if name == lost else 1 for name in names]
        assert lost in left.runs()
        shared = results(server, names[0])
        assert shared == results(server, names[1])
        assert left.end(signal.SIGTERM) == 0
    # The same bytes as in the server itself.
    with ExitStack() as stack:
        alone = Server(tmp_path / "alone", **SETTINGS)
        stack.callback(alone.kill)
        name = started(alone)
        assert alone.api.wait(name)["state"] == "succeeded"
        assert shared == results(alone, name)


def test_cancel_ends_the_worker_of_a_runner(tmp_path: Path, stores: dict[str, str]) -> None:
    with deployment(tmp_path / "data", stores) as (server, runners):
        name = started(server)
        until(lambda: any(one.workers() for one in runners), lambda: "no run has started")
        assert server.http.post(f"/v1/recalibrations/{name}/cancel").status_code == 202
        until(
            lambda: not any(one.workers() for one in runners),
            lambda: "the worker still runs",
            seconds=30,
        )
        assert server.api.get(name).json()["state"] == "cancelled"


def test_server_without_runs_leaves_them_queued(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ExitStack() as stack:
        server = Server(data, **SETTINGS, max_concurrent_runs=0)
        stack.callback(server.kill)
        name = started(server)
        server.api.wait(name, "queued")
        runner = Runner(data, "late", **SETTINGS)
        stack.callback(runner.end, signal.SIGKILL)
        assert server.api.wait(name)["state"] == "succeeded"
        assert runner.runs() == [name]


def test_runner_that_may_run_nothing_does_not_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["-m", "service", "--runner", "--data-dir", str(tmp_path / "data")]
    environment = {**os.environ, "BNRECAL_MAX_CONCURRENT_RUNS": "0"}
    assert subprocess.run([sys.executable, *words], env=environment, check=False).returncode == 2
    assert "at least 1" in capfd.readouterr().err
