"""One run in shards: how many, which samples each holds, and the two kinds of workers."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bn_ops.core.moment_tree import CHUNK_SAMPLES
from service.errors import WorkerDeadlineError
from service.settings import Settings
from service.workers.memory import runs_bytes, worker_bytes
from service.workers.messages import Limits, StoredBatchRef, StreamPart, WorkerTask
from service.workers.process import WorkerProcess, limits
from service.workers.protocol import Job, OnProgress, Outcome
from service.workers.sharding.conductor import Conductor, conduct
from service.workers.sharding.cut import Cut, balance, cut
from service.workers.sharding.local import LocalShards
from service.workers.sharding.on_ray import RayCluster, RayShards
from service.workers.sharding.protocol import ShardJob, Shards
from service.workers.sharding.ray_actor import ShardFiles

__all__ = ["AUTO", "Trial", "can_be_sharded", "reads_elsewhere", "run_in_shards", "shard_limits"]

AUTO = "auto"
# A cut whose largest part is this many times as large as equal parts is not good enough.
_MAX_IMBALANCE = 1.5

Trial = Callable[[WorkerTask, Sequence[StoredBatchRef]], Awaitable[dict[str, Any]]]
"""Does a task of the kind `try_execution`."""

Scratch = Callable[[], AbstractAsyncContextManager[Path]]
"""Creates a private folder for a worker, for the time of a context."""


def can_be_sharded(settings: Settings, options: Mapping[str, Any], source_total: int) -> bool:
    """Return whether a run is to be measured in shards, as far as its options say.

    Args:
        settings: settings of the process.
        options: options of the run.
        source_total: number of batches of its source stream.
    """
    wanted = settings.shards != "1" or bool(settings.runner)
    whole = not source_total and options.get("max_samples") is None
    return wanted and whole and options["method"] == "exact"


def reads_elsewhere(settings: Settings, options: Mapping[str, Any], source_total: int) -> bool:
    """Return whether other machines fetch a run's files themselves; arguments as above."""
    remote = bool(settings.runner and settings.blobs)
    return remote and can_be_sharded(settings, options, source_total)


async def run_in_shards(  # noqa: PLR0917 - what the executor has
    settings: Settings,
    scratch: Scratch,
    trial: Trial,
    cluster: RayCluster | None,
    job: Job,
    on_progress: OnProgress,
) -> Outcome | None:
    """Do a run; its results are in `job.output`.

    Args:
        settings: settings of the process.
        scratch: creates folders for workers.
        trial: tries how the first batch is run.
        cluster: measures the shards; None for workers of this machine.
        job: the run.
        on_progress: receives its progress.

    Returns:
        None where one worker of this machine is enough: nothing has been done.

    Raises:
        RefusedError: the run is not possible.
        WorkerDiedError, WorkerDeadlineError, CapacityError: as `Executor.run`.
    """
    batches = [batch async for page in job.batches() for batch in page]
    found = await _cut(settings, trial, cluster, job, batches)
    if found is None:
        return None
    parts, execution = found
    options = {**job.options, "execution": execution}
    jobs = [
        ShardJob(
            index=index,
            part=part,
            batches=batches[part.first : part.stop],
            inputs=job.inputs,
            options=options,
            shards=len(parts),
        )
        for index, part in enumerate(parts)
    ]
    given = shard_limits(settings, None if cluster else len(parts), job.options.get("memory_bytes"))
    shards: Shards
    if cluster is None:
        shards = LocalShards(
            settings, given, scratch, model=job.model, batch_folder=job.batch_folder
        )
    else:
        shards = RayShards(cluster, given, await _files(settings, job))
    seconds = settings.worker_timeout_seconds
    threads = _assembling_threads(settings, 1 if cluster else len(parts))
    try:
        async with asyncio.timeout(seconds):
            return await _run(settings, shards, job, jobs, on_progress, threads)
    except TimeoutError as error:
        text = f"the run took longer than {seconds:g} seconds and was ended"
        raise WorkerDeadlineError(text) from error


def _assembling_threads(settings: Settings, shards: int) -> int:
    """Return the threads of the worker that assembles; 0 for every core.

    It computes before and after the shards, so it may use the cores of those on this machine.

    Args:
        settings: settings of the process.
        shards: number of shards on this machine, at least 1.
    """
    return min(settings.worker_threads * shards, os.cpu_count() or 1)


async def _run(  # noqa: PLR0917 - the run, its shards and its limits
    settings: Settings,
    shards: Shards,
    job: Job,
    jobs: Sequence[ShardJob],
    on_progress: OnProgress,
    threads: int,
) -> Outcome:
    given = limits(settings, settings.worker_timeout_seconds, job.options.get("memory_bytes"))
    task = WorkerTask(
        kind="assemble",
        parent=os.getpid(),
        model=str(job.model),
        inputs=job.inputs,
        output=str(job.output),
        total=len(jobs),
        options=dict(jobs[0].options),
        limits=replace(given, threads=threads),
    )
    async with Conductor(
        shards,
        jobs,
        on_progress,
        max_replacements=settings.max_worker_crashes,
        trace=job.trace,
    ) as conductor:
        assembler = await WorkerProcess.start(task, settings)
        try:
            await conductor.open()
            answer = await conduct(assembler, conductor, on_progress)
        finally:
            await assembler.close()
    return Outcome(verdict=answer["verdict"])


async def _files(settings: Settings, job: Job) -> Callable[[ShardJob], ShardFiles]:
    """Return a function that tells a node where the files of a shard are."""
    stored = job.stored
    if stored is None:
        shared = ShardFiles(model=job.model.absolute(), batch_folder=job.batch_folder.absolute())
        return lambda _: shared
    contents = [one async for page in stored.contents() for one in page]
    return lambda shard: ShardFiles(
        blobs=settings.blobs,
        stored_model=stored.model,
        stored_folder=stored.folder,
        stored_batches=tuple(contents[shard.part.first : shard.part.stop]),
    )


def shard_limits(settings: Settings, shards: int | None, memory_bytes: int | None) -> Limits:
    """Return the limits of a shard's worker.

    Args:
        settings: settings of the process.
        shards: number of shards that divide the cores of this machine; None on a cluster, where a
            shard has one thread unless the settings say otherwise.
        memory_bytes: what the recalibration requests.
    """
    found = limits(settings, settings.worker_timeout_seconds, memory_bytes)
    own = 1 if shards is None else max(1, (os.cpu_count() or 1) // shards)
    return replace(found, threads=found.threads or own)


async def _cut(
    settings: Settings,
    trial: Trial,
    cluster: RayCluster | None,
    job: Job,
    batches: Sequence[StoredBatchRef],
) -> tuple[Sequence[StreamPart], str] | None:
    """Return the parts of the stream and the execution; None for a single part here.

    The execution is `auto` where the same cut is right for both.
    """
    fixed = _fixed_samples(job.inputs)
    chunks = -(-sum(batch.samples for batch in batches) // math.lcm(CHUNK_SAMPLES, fixed))
    tried: dict[str, Any] | None = None
    if settings.shards == AUTO:
        tried = await _try(settings, trial, job, batches)
        wanted = await _shards_for(settings, cluster, job, batches, tried["waiting_bytes"])
        shards = min(chunks, wanted)
    else:
        shards = min(chunks, int(settings.shards))
    if shards <= 1:
        return None if cluster is None else (cut(batches, 1, "aligned"), "auto")
    parts = cut(batches, shards, "aligned", fixed=fixed)
    if len(parts) == shards and balance(parts, shards) <= _MAX_IMBALANCE:
        return parts, "auto"
    if tried is None:
        tried = await _try(settings, trial, job, batches)
    how: Cut = "samples" if tried["execution"] == "optimized" or fixed > 1 else "batches"
    parts = cut(batches, shards, how, fixed=fixed)
    return None if len(parts) == 1 and cluster is None else (parts, tried["execution"])


async def _shards_for(
    settings: Settings,
    cluster: RayCluster | None,
    job: Job,
    batches: Sequence[StoredBatchRef],
    waiting_bytes: int,
) -> int:
    """Return the number of shards that keep all waiting tensors in memory, as far as it is free."""
    requested = job.options.get("memory_bytes")
    frontier = limits(settings, 0, requested).frontier_memory_bytes
    waiting = sum(batch.samples for batch in batches) * waiting_bytes
    worker = worker_bytes(requested, settings)
    if cluster is None:
        room = runs_bytes(settings) // worker - 1  # one more worker assembles the results
    else:
        room = await asyncio.to_thread(cluster.workers, worker)
    return max(1, min(math.ceil(waiting / max(frontier, 1)), room))


async def _try(
    settings: Settings, trial: Trial, job: Job, batches: Sequence[StoredBatchRef]
) -> dict[str, Any]:
    first = batches[:1]
    task = WorkerTask(
        kind="try_execution",
        parent=os.getpid(),
        model=str(job.model),
        inputs=job.inputs,
        output=str(job.output),
        batch_folder=str(job.batch_folder),
        total=len(first),
        options=dict(job.options),
        limits=limits(settings, settings.inspection_timeout_seconds),
    )
    return await trial(task, first)


def _fixed_samples(inputs: Sequence[dict[str, Any]]) -> int:
    """Return the number of samples that the model takes at a time; 1 where it is free."""
    sizes = {one["shape"][0] for one in inputs if one["shape"]}
    fixed = {size for size in sizes if isinstance(size, int) and size > 0}
    return max(fixed, default=1)
