"""A run in shards with real workers gives the files of a run in one process, byte for byte."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from bn_ops.core.sharding import ShardMoments
from service.errors import RefusedError, WorkerDiedError, WorkerError
from service.settings import Settings
from service.workers.process_pool import ProcessExecutor
from service.workers.protocol import Job, Progress
from service.workers.sharding.local import LocalShard, LocalShards
from service.workers.sharding.protocol import OnShardProgress, ShardJob
from tests.support.sharded_jobs import NETWORKS, SIZES, make_job, results, spoil


async def _ignore(_: Progress) -> None:
    return


def run(job: Job, shards: str = "1", **settings: Any) -> dict[str, Any]:
    given = Settings(worker_threads=1, shards=shards, **settings)
    asyncio.run(ProcessExecutor(given).run(job, _ignore))
    return results(job)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[ShardJob, LocalShard]]:
    """Return the shards that are opened, in order."""
    found: list[tuple[ShardJob, LocalShard]] = []
    original = LocalShards.open

    async def recorded(self: LocalShards, job: ShardJob, report: OnShardProgress) -> LocalShard:
        shard = await original(self, job, report)
        found.append((job, shard))
        return shard

    monkeypatch.setattr(LocalShards, "open", recorded)
    return found


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("sizes", SIZES)
def test_shards_give_the_bytes_of_one_process(
    tmp_path: Path, network: str, sizes: str, opened: list[tuple[ShardJob, LocalShard]]
) -> None:
    def job(name: str) -> Job:
        return make_job(tmp_path / name, NETWORKS[network], SIZES[sizes])

    whole = run(job("whole"))
    assert not opened
    assert run(job("two"), "2") == whole
    assert len(opened) == 2
    assert run(job("four"), "4") == whole
    assert len(opened) == 2 + 4
    execution = {one.options["execution"] for one, _ in opened}
    assert execution == {"auto" if sizes == "even" else network.replace("fixed", "graph")}


def test_progress_counts_all_shards_and_names_every_layer(tmp_path: Path) -> None:
    job = make_job(tmp_path, NETWORKS["optimized"], SIZES["even"], "replace")
    steps: list[Progress] = []

    async def note(step: Progress) -> None:
        steps.append(step)

    asyncio.run(ProcessExecutor(Settings(worker_threads=1, shards="2")).run(job, note))
    phases = list(dict.fromkeys(step.phase for step in steps))
    assert phases == ["reading", "measuring", "folding", "verifying"]
    reading = [step.done for step in steps if step.phase == "reading"]
    assert reading == sorted(reading)
    assert reading[-1] <= len(SIZES["even"])
    measuring = [step for step in steps if step.phase == "measuring"]
    assert [step.done for step in measuring] == sorted(step.done for step in measuring)
    assert measuring[-1].done == measuring[-1].total
    report = results(job)["report"]
    drifts = {one["name"]: one["drift"]["wasserstein"] for one in report["layers"] if one["drift"]}
    assert {layer.name: layer.drift for step in steps for layer in step.layers} == drifts


@pytest.mark.parametrize("level", [0, 2, 5])
def test_a_killed_shard_is_replaced_and_replays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    opened: list[tuple[ShardJob, LocalShard]],
    level: int,
) -> None:
    whole = run(make_job(tmp_path / "whole", NETWORKS["optimized"], SIZES["even"]))
    steps = _kill_before(monkeypatch, shard=1, level=level, times=1)
    found = run(make_job(tmp_path / "killed", NETWORKS["optimized"], SIZES["even"]), "2")
    assert found == whole
    assert [job.index for job, _ in opened] in ([0, 1, 1], [1, 0, 1])
    # The new worker repeats the settled levels.
    assert steps[1] == [*range(level + 1), *range(len(set(steps[1])))]


def _kill_before(
    monkeypatch: pytest.MonkeyPatch, *, shard: int, level: int, times: int
) -> dict[int, list[int]]:
    """Kill the worker of a shard before a step; return the levels that each shard was asked for."""
    steps: dict[int, list[int]] = {0: [], 1: []}
    levels: dict[int, int] = {}
    killed = 0
    original = LocalShard.call

    async def call(
        self: LocalShard, members: dict[str, Any], content: bytes | None = None
    ) -> bytes:
        nonlocal killed
        if members["call"] != "step":
            return await original(self, members, content)
        at = levels[id(self)] = levels.get(id(self), -1) + 1
        steps[self._index].append(at)
        if self._index == shard and at == level and killed < times:
            killed += 1
            os.kill(self.pid, signal.SIGKILL)
        return await original(self, members, content)

    monkeypatch.setattr(LocalShard, "call", call)
    return steps


def test_a_shard_that_always_dies_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[tuple[ShardJob, LocalShard]]
) -> None:
    _kill_before(monkeypatch, shard=1, level=0, times=100)
    job = make_job(tmp_path, NETWORKS["optimized"], SIZES["even"])
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        run(job, "2", max_worker_crashes=2)
    assert len(opened) == 2 + 2


def _other_kernels(answer: bytes) -> bytes:
    moments = ShardMoments.from_bytes(answer)
    kernels = {**moments.kernels, "numpy": "1.0"}
    return ShardMoments(
        plan=moments.plan,
        kernels=kernels,
        level=moments.level,
        samples=moments.samples,
        layers=moments.layers,
    ).to_bytes()


def _answer_with_other_kernels(
    monkeypatch: pytest.MonkeyPatch, opened: list[tuple[ShardJob, LocalShard]], number: int
) -> None:
    """Let one of the opened workers report another numpy."""
    original = LocalShard.call

    async def call(
        self: LocalShard, members: dict[str, Any], content: bytes | None = None
    ) -> bytes:
        answer = await original(self, members, content)
        own = next(index for index, (_, shard) in enumerate(opened) if shard is self)
        return _other_kernels(answer) if own == number and members["call"] == "step" else answer

    monkeypatch.setattr(LocalShard, "call", call)


def test_mixed_versions_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[tuple[ShardJob, LocalShard]]
) -> None:
    _answer_with_other_kernels(monkeypatch, opened, 1)
    job = make_job(tmp_path, NETWORKS["optimized"], SIZES["even"])
    with pytest.raises(RefusedError, match=r"differ in numpy \(.* and .*\), so their moments") as e:
        run(job, "2")
    assert e.value.refusal == "shard-mismatch"


def test_a_replacement_that_measures_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[tuple[ShardJob, LocalShard]]
) -> None:
    _kill_before(monkeypatch, shard=1, level=2, times=1)
    _answer_with_other_kernels(monkeypatch, opened, 2)
    job = make_job(tmp_path, NETWORKS["optimized"], SIZES["even"])
    with pytest.raises(RefusedError, match="shard 1 was replaced and measured other moments"):
        run(job, "2")


def test_the_number_of_shards_follows_from_the_waiting_tensors(
    tmp_path: Path, opened: list[tuple[ShardJob, LocalShard]]
) -> None:
    job = make_job(tmp_path / "one", NETWORKS["optimized"], SIZES["even"])
    whole = run(job, "auto")
    assert not opened
    # Sixteen kilobytes per sample wait at the widest level: see the next assertion.
    small = {"frontier_memory_bytes": 2 << 20, "runs_memory_bytes": 1 << 40}
    found = run(make_job(tmp_path / "some", NETWORKS["optimized"], SIZES["even"]), "auto", **small)
    assert found == whole
    assert len(opened) == 3


def test_an_error_names_the_batch_of_the_whole_stream(tmp_path: Path) -> None:
    job = make_job(tmp_path, NETWORKS["optimized"], SIZES["even"])
    spoil(job, 8)
    with pytest.raises(RefusedError, match="in the shard that begins with batch 4") as caught:
        run(job, "2")
    assert caught.value.refusal == "batch-not-finite"
    assert caught.value.details == {"batch": 8, "input": "x"}


def test_batches_with_other_samples_than_recorded_are_an_internal_error(tmp_path: Path) -> None:
    job = make_job(tmp_path, NETWORKS["optimized"], SIZES["even"])
    content = (job.batch_folder / "9.safetensors").read_bytes()
    (job.batch_folder / "7.safetensors").write_bytes(content)
    with pytest.raises(RefusedError, match="hold 152 samples, and 172 are recorded") as caught:
        run(job, "2")
    assert caught.value.refusal == WorkerError.code
