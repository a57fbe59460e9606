"""Shards on a Ray cluster of two nodes give the files of a run in one process, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import Any

import psutil
import pytest

from service.errors import CapacityError, RefusedError, StartError
from service.settings import Settings
from service.workers.process_pool import ProcessExecutor
from service.workers.protocol import Job, Progress
from service.workers.sharding import on_ray
from service.workers.sharding.on_ray import RayShard, RayShards, check_runner
from service.workers.sharding.protocol import OnShardProgress, ShardJob
from tests.support.namespaces import Network, network, unsupported_reason
from tests.support.ray_nodes import REQUIRED, RayNodes, ray_nodes
from tests.support.sharded_jobs import NETWORKS, SIZES, make_job, results
from tests.support.waiting import until

# One cluster for all, in one process, which can hold the token of one cluster only.
pytestmark = pytest.mark.xdist_group("ray")
CUT_SECONDS = 2.0
needs_ray = pytest.mark.skipif(not REQUIRED, reason="set BNRECAL_TEST_RAY=1 to start Ray nodes")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with ray_nodes() as found:
        yield found


@pytest.fixture
def connected(cluster: RayNodes, monkeypatch: pytest.MonkeyPatch) -> RayNodes:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


async def _ignore(_: Progress) -> None:
    return


def run(
    job: Job,
    shards: str,
    *,
    runner: str = "ray",
    on_progress: Callable[[Progress], Any] = _ignore,
    **settings: Any,
) -> dict[str, Any]:
    given = {"worker_threads": 1, "worker_memory_bytes": 1 << 30, **settings}

    async def work() -> None:
        executor = ProcessExecutor(Settings(shards=shards, runner=runner, **given))
        try:
            await executor.run(job, on_progress)
        finally:
            await executor.close()

    asyncio.run(work())
    return results(job)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[RayShard]:
    """Return the shards that are opened, in order."""
    found: list[RayShard] = []
    original = RayShards.open

    async def recorded(self: RayShards, job: ShardJob, report: OnShardProgress) -> RayShard:
        shard = await original(self, job, report)
        found.append(shard)
        return shard

    monkeypatch.setattr(RayShards, "open", recorded)
    return found


def before_step(
    monkeypatch: pytest.MonkeyPatch, shard: int, level: int, act: Callable[[RayShard], None]
) -> None:
    """Do something before one step of one shard, once."""
    original = RayShard.call
    steps = 0

    async def call(self: RayShard, members: dict[str, Any], content: bytes | None = None) -> bytes:
        nonlocal steps
        if self._index == shard and members["call"] == "step":
            if steps == level:
                await asyncio.to_thread(act, self)
            steps += 1
        return await original(self, members, content)

    monkeypatch.setattr(RayShard, "call", call)


def actor_process(shard: RayShard) -> psutil.Process:
    """Return the process of a shard's actor."""
    return psutil.Process(shard._ray.get(shard.actor.pid.remote()))


@needs_ray
@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(
    ("network", "sizes"), [("optimized", "even"), ("optimized", "ragged"), ("graph", "ragged")]
)
def test_ray_gives_the_bytes_of_one_process(
    tmp_path: Path, network: str, sizes: str, opened: list[RayShard]
) -> None:
    def job(name: str) -> Job:
        return make_job(tmp_path / name, NETWORKS[network], SIZES[sizes])

    whole = run(job("whole"), "1", runner="")
    assert run(job("one"), "1") == whole
    assert run(job("two"), "2") == whole
    assert run(job("four"), "4") == whole
    assert len(opened) == 1 + 2 + 4


@needs_ray
def test_a_client_server_gives_the_same_bytes(tmp_path: Path, connected: RayNodes) -> None:
    whole = run(make_job(tmp_path / "whole", NETWORKS["optimized"], SIZES["even"]), "1", runner="")
    for _ in range(3):
        # On a busy machine Ray may not start a client's server within its 30 seconds; such a run
        # is deferred and starts again.
        with contextlib.suppress(CapacityError):
            job = make_job(tmp_path / secrets.token_hex(4), NETWORKS["optimized"], SIZES["even"])
            assert run(job, "2", runner=connected.client_address) == whole
            return
    raise AssertionError("the Ray Client server does not start")


@needs_ray
@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize("what", ["worker", "actor"])
def test_a_killed_process_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[RayShard], what: str
) -> None:
    whole = run(make_job(tmp_path / "whole", NETWORKS["optimized"], SIZES["even"]), "1", runner="")

    def kill(shard: RayShard) -> None:
        actor = actor_process(shard)
        (worker,) = actor.children()
        (worker if what == "worker" else actor).kill()
        until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)

    before_step(monkeypatch, 1, 3, kill)
    found = run(make_job(tmp_path / "killed", NETWORKS["optimized"], SIZES["even"]), "2")
    assert found == whole
    assert len(opened) == 3


@needs_ray
@pytest.mark.usefixtures("connected")
def test_shards_are_placed_by_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "PLACEMENT_SECONDS", 5.0)
    job = make_job(tmp_path, NETWORKS["optimized"], SIZES["even"])
    with pytest.raises(CapacityError, match=r"has had no place for shard \d of 2"):
        run(job, "2", worker_memory_bytes=1 << 36)


@needs_ray
@pytest.mark.usefixtures("connected")
@pytest.mark.parametrize(
    ("worker_bytes", "shards"),
    [
        pytest.param(1 << 30, 3, id="as many as keep the waiting tensors in memory"),
        pytest.param(15_000_000_000, 2, id="not more than the nodes hold"),
    ],
)
def test_the_number_of_shards_follows_from_the_memory_of_the_nodes(
    tmp_path: Path, opened: list[RayShard], worker_bytes: int, shards: int
) -> None:
    def job(name: str) -> Job:
        return make_job(tmp_path / name, NETWORKS["optimized"], SIZES["even"])

    whole = run(job("whole"), "1", runner="")
    # The tensors that wait at the widest level need three times these bytes.
    found = run(
        job("auto"), "auto", worker_memory_bytes=worker_bytes, frontier_memory_bytes=2 << 20
    )
    assert found == whole
    assert len(opened) == shards


@needs_ray
@pytest.mark.usefixtures("connected")
def test_a_stream_that_fits_one_worker_is_one_shard(tmp_path: Path, opened: list[RayShard]) -> None:
    run(make_job(tmp_path, NETWORKS["optimized"], SIZES["even"]), "auto")
    assert len(opened) == 1


@needs_ray
@pytest.mark.usefixtures("connected")
def test_another_version_on_a_node_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "__version__", "0.0.1")
    job = make_job(tmp_path, NETWORKS["optimized"], SIZES["even"])
    with pytest.raises(RefusedError, match=r"and the runner 0\.0\.1") as caught:
        run(job, "2")
    assert caught.value.refusal == "shard-mismatch"


@needs_ray
def test_another_token_is_refused(cluster: RayNodes, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("f" * 64)
    environment = {**os.environ, **cluster.environment}
    environment["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "token")
    script = "from service.workers.sharding.on_ray import RayCluster; RayCluster('ray').connect()"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "the Ray cluster" in done.stderr


@needs_ray
def test_a_killed_node_is_replaced(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: list[RayShard],
    connected: RayNodes,
) -> None:
    whole = run(make_job(tmp_path / "whole", NETWORKS["optimized"], SIZES["even"]), "1", runner="")

    def kill(shard: RayShard) -> None:
        pid = actor_process(shard).pid
        (node,) = (n for n in connected.nodes if pid in {one.pid for one in n.processes()})
        node.kill()
        connected.nodes.remove(node)

    before_step(monkeypatch, 1, 3, kill)
    try:
        found = run(make_job(tmp_path / "killed", NETWORKS["optimized"], SIZES["even"]), "2")
    finally:
        connected.add()
    assert found == whole
    # Both shards may have been on the node.
    assert len(opened) in {3, 4}


@pytest.fixture(scope="module")
def spaces() -> Iterator[Network]:
    if (reason := unsupported_reason()) is not None:
        pytest.skip(f"without namespaces: {reason}")
    with network(2) as found:
        yield found


@contextmanager
def cluster_in(
    spaces: Network, monkeypatch: pytest.MonkeyPatch, **settings: str
) -> Iterator[RayNodes]:
    """Run a cluster with a node in each namespace, and connect to it."""
    environment = {f"RAY_health_check_{name}": value for name, value in settings.items()}
    with ray_nodes(count=0, address=spaces.own_address, environment=environment) as found:
        for number in range(2):
            found.add(spaces.address(number), spaces.within(number))
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


def number_of(cluster: RayNodes, shard: RayShard) -> int:
    """Return the number of the node that holds a shard."""
    pid = actor_process(shard).pid
    (number,) = (
        number
        for number, node in enumerate(cluster.nodes)
        if pid in {one.pid for one in node.processes()}
    )
    return number


@needs_ray
def test_a_node_that_is_cut_off_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[RayShard], spaces: Network
) -> None:
    whole = run(make_job(tmp_path / "whole", NETWORKS["optimized"], SIZES["even"]), "1", runner="")
    workers: list[psutil.Process] = []
    numbers: list[int] = []
    with cluster_in(spaces, monkeypatch) as cluster:

        def cut(shard: RayShard) -> None:
            numbers.append(number_of(cluster, shard))
            workers[:] = actor_process(shard).children()
            spaces.cut(numbers[0])

        before_step(monkeypatch, 1, 3, cut)
        try:
            found = run(make_job(tmp_path / "cut", NETWORKS["optimized"], SIZES["even"]), "2")
            # Its workers still wait for the next level: no request can reach them.
            assert [one for one in workers if one.is_running()] == workers
        finally:
            spaces.heal(numbers[0])
        # The node learns that it counts as dead, and ends its actors and their workers.
        until(lambda: not any(alive(one) for one in workers))
    assert found == whole
    # Both shards may have been on the node.
    assert len(opened) in {3, 4}


def alive(process: psutil.Process) -> bool:
    """Return whether a process runs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@needs_ray
def test_a_node_that_is_cut_off_for_a_moment_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[RayShard], spaces: Network
) -> None:
    whole = run(make_job(tmp_path / "whole", NETWORKS["optimized"], SIZES["even"]), "1", runner="")
    began: list[float] = []
    with cluster_in(spaces, monkeypatch, failure_threshold="60") as cluster:

        def cut(shard: RayShard) -> None:
            number = number_of(cluster, shard)
            spaces.cut(number)
            began.append(monotonic())
            Timer(CUT_SECONDS, spaces.heal, [number]).start()

        before_step(monkeypatch, 1, 3, cut)
        found = run(make_job(tmp_path / "cut", NETWORKS["optimized"], SIZES["even"]), "2")
    assert monotonic() - began[0] > CUT_SECONDS
    assert found == whole
    assert len(opened) == 2


def test_a_runner_without_ray_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    check_runner(Settings())
    with pytest.raises(StartError, match="extra `ray`"):
        check_runner(Settings(runner="ray"))
