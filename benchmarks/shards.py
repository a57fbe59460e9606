"""Measure what it costs to run in shards: on this machine, and on a Ray cluster of two nodes.

    python -m benchmarks.shards [--network resnet18] [--images 1536] [--size 128] [--repeats 3]

Writes benchmarks/results/shards.json and the table of docs/sharded-runs.md. All nodes are on this
machine, so that shards share its cores: what is measured is the overhead, not a speed-up. Every way
to run gets the same number of threads in all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import torch

import bn_ops
from benchmarks import machine
from benchmarks.accuracy.results import replace_marked
from benchmarks.networks import build
from service.settings import Settings
from service.workers.messages import STATISTICS, StoredBatchRef
from service.workers.process_pool import ProcessExecutor
from service.workers.protocol import Job, Progress
from service.workers.sharding.on_ray import RayShard
from tests.support.ray_nodes import ray_nodes

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "shards.json"
PAGE = ROOT / "docs" / "sharded-runs.md"

_NETWORKS = {"resnet18": "ResNet-18", "mobilenet_v2": "MobileNetV2"}
_BATCH = 32
_THREADS = 2
# The allowed start: of the run, and of each shard.
_START_SECONDS, _SHARD_SECONDS = 1.0, 0.7

_WAYS: Mapping[str, dict[str, Any]] = {
    "one worker": {"shards": "1", "worker_threads": _THREADS},
    "2 shards, this machine": {"shards": "2", "worker_threads": _THREADS // 2},
    "1 shard, Ray": {"shards": "1", "worker_threads": _THREADS, "runner": "ray"},
    # One thread for each shard, and every core for the worker that assembles.
    "2 shards, Ray": {"shards": "2", "worker_threads": 0, "runner": "ray"},
}


class _Executors:
    """The executors of all ways, which stay connected to the cluster."""

    def __init__(self) -> None:
        self._known: dict[str, ProcessExecutor] = {}

    def run(self, way: str, job: Job) -> float:
        """Do a run; return its seconds."""
        executor = self._known.get(way)
        if executor is None:
            executor = ProcessExecutor(Settings(worker_memory_bytes=4 << 30, **_WAYS[way]))
            self._known[way] = executor
        began = perf_counter()
        asyncio.run(executor.run(job, _ignore))
        return perf_counter() - began


async def _ignore(_: Progress) -> None:
    return


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=tuple(_NETWORKS), default="resnet18")
    parser.add_argument("--images", type=int, default=1536)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--levels", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bnrecal-shards-")))
        # On a busy machine a node must not count as dead.
        patient = {"RAY_health_check_failure_threshold": "60"}
        cluster = stack.enter_context(ray_nodes(cpus=_THREADS, environment=patient))
        os.environ |= cluster.environment
        found = _measure(folder, options)
    options.results.parent.mkdir(exist_ok=True)
    options.results.write_text(json.dumps(found, indent=1) + "\n")
    print(_table(found))
    if options.results == RESULTS:
        replace_marked("shards", PAGE, _table(found))


def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    new_job = _jobs(folder, options.network, options.images, options.size)
    executors = _Executors()
    seconds: dict[str, list[float]] = {way: [] for way in _WAYS}
    digests = set()
    executors.run("2 shards, Ray", new_job(4))  # connects
    for _ in range(options.repeats):
        for way in _WAYS:
            job = new_job()
            seconds[way].append(executors.run(way, job))
            digests.add((job.output / STATISTICS).read_bytes())
    recovery = [_recovery(executors, new_job, level) for level in options.levels]
    assert len(digests) == 1, "the results differ"
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    return {
        "about": {
            **machine.about(),
            "network": options.network,
            "images": options.images,
            "size": options.size,
        },
        "seconds": seconds,
        "overhead": {
            way: _overhead(medians[way], medians["one worker"], int(settings["shards"]))
            for way, settings in _WAYS.items()
            if way != "one worker"
        },
        "recovery": recovery,
    }


def _overhead(seconds: float, one_worker: float, shards: int) -> float:
    """Return the time beyond one worker and the allowed start, relative to one worker."""
    return (seconds - _START_SECONDS - _SHARD_SECONDS * shards) / one_worker - 1


NewJob = Callable[..., Job]
"""Returns a new run on the same batches, or on some of them."""


def _jobs(folder: Path, network: str, images: int, size: int) -> NewJob:
    """Write a model and batches."""
    model = folder / "model.onnx"
    exported = bn_ops.export(build(network), (torch.zeros(2, 3, size, size),))
    model.write_bytes(exported.SerializeToString())
    (info,) = bn_ops.describe(model).inputs
    inputs = [{"name": info.name, "dtype": info.dtype, "shape": ["N", 3, size, size]}]
    (folder / "batches").mkdir()
    random = np.random.default_rng(0)
    refs = []
    for index in range(images // _BATCH):
        path = folder / "batches" / f"{index}.npy"
        np.save(path, random.normal(size=(_BATCH, 3, size, size)).astype(np.float32))
        refs.append(
            StoredBatchRef(
                name=path.name,
                format="npy",
                start=None,
                bytes=path.stat().st_size,
                samples=_BATCH,
            )
        )
    made = iter(range(1 << 30))

    def new_job(batches: int | None = None) -> Job:
        chosen = refs[:batches]

        async def pages() -> AsyncIterator[list[StoredBatchRef]]:
            yield chosen

        output = folder / f"output-{next(made)}"
        output.mkdir()
        return Job(
            model=model,
            inputs=inputs,
            batch_folder=folder / "batches",
            batches=pages,
            total=len(chosen),
            options={
                "method": "exact",
                "estimator": {"name": "replace"},
                "layers": None,
                "allow_mismatch": True,
            },
            output=output,
        )

    return new_job


def _recovery(executors: _Executors, new_job: NewJob, level: int) -> dict[str, Any]:
    """Kill an actor before a level; return the time of its settled levels and that of its recovery.

    The recovery is the time from the kill to the answer of the level, less the time of that level.
    """
    original = RayShard.call
    times: list[tuple[int, float, float]] = []  # shard, begin and end of each step

    async def call(self: RayShard, members: dict[str, Any], content: bytes | None = None) -> bytes:
        if members["call"] != "step":
            return await original(self, members, content)
        if sum(one[0] == 1 for one in times) == level and self._index == 1 and not killed:
            killed.append(perf_counter())
            pid = await self.actor.pid.remote()
            psutil.Process(pid).kill()
        began = perf_counter()
        try:
            return await original(self, members, content)
        finally:
            times.append((self._index, began, perf_counter()))

    killed: list[float] = []
    RayShard.call = call  # type: ignore[method-assign]
    try:
        executors.run("2 shards, Ray", new_job())
    finally:
        RayShard.call = original  # type: ignore[method-assign]
    own = [(began, ended) for shard, began, ended in times if shard == 1]
    settled = sum(ended - began for began, ended in own[:level])
    # The failed call, the replayed levels, and the level itself.
    again = own[level : 2 * level + 2]
    level_seconds = again[-1][1] - again[-1][0]
    recovered = again[-1][1] - killed[0] - level_seconds
    return {"level": level, "settled_seconds": settled, "recovery_seconds": recovered}


def _table(found: Mapping[str, Any]) -> str:
    about, seconds = found["about"], found["seconds"]
    lines = [
        (
            f"{about['date']}, {about['cpu']}, {about['cores']} cores for all; "
            f"{_NETWORKS[about['network']]}, "
            f"{about['images']} images of {about['size']}×{about['size']}, {_THREADS} threads; "
            f"median and each run. The overhead is what a run takes beyond "
            f"{_START_SECONDS:g} s + {_SHARD_SECONDS:g} s per shard, relative to one worker."
        ),
        "",
        "| run | seconds | overhead |",
        "|---|---|---|",
    ]
    for way, values in seconds.items():
        every = ", ".join(f"{value:.1f}" for value in values)
        share = found["overhead"].get(way)
        shown = "" if share is None else f"{100 * share:+.0f} %"
        lines.append(f"| {way} | {statistics.median(values):.1f} ({every}) | {shown} |")
    lines += [
        "",
        "| killed before level | settled levels took | recovery took |",
        "|---|---|---|",
    ]
    for one in found["recovery"]:
        lines.append(
            f"| {one['level']} | {one['settled_seconds']:.1f} s | {one['recovery_seconds']:.1f} s |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
