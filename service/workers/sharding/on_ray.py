"""Shards on a Ray cluster, seen from the runner.

One actor holds each shard (see `ray_actor`). A call of an actor is one level: statistics down,
moments up, a few kilobytes each way. Ray places actors by the memory that their workers may use,
and reports when an actor, a process or a node has died; the conductor then replaces the shard.

Ray is an optional dependency and is loaded at the first run. The token of a cluster permits to
run any code on its nodes, so only runners connect to it, never a server that runs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from bn_ops.core.version import __version__
from service.errors import CapacityError, RefusedError, StartError, WorkerDiedError
from service.settings import Settings
from service.workers.messages import Limits
from service.workers.sharding.protocol import OnShardProgress, ShardJob
from service.workers.sharding.ray_actor import Answer, ShardActor, ShardFiles

__all__ = ["RayCluster", "RayShard", "RayShards", "check_runner"]

_log = logging.getLogger(__name__)
# Time for the cluster to find a place for a shard and to start its process.
PLACEMENT_SECONDS = 120.0
# Interval at which the progress within a level is asked for.
PROGRESS_SECONDS = 1.0
# The setting for the cluster of the machine's own Ray node.
OWN_NODE = "ray"


def check_runner(settings: Settings) -> None:
    """Check before anything is started that Ray is installed, where the settings need it.

    Raises:
        StartError: Ray is missing.
    """
    if settings.runner and importlib.util.find_spec("ray") is None:
        raise StartError("BNRECAL_RUNNER needs Ray: install bnrecal with the extra `ray`")


class RayCluster:
    """The connection of this process to a cluster, opened at its first use.

    Args:
        address: `ray` for the cluster that this machine is a node of, or the one that RAY_ADDRESS
            names; `ray://host:port` for a Ray Client server.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._ray: Any = None

    def connect(self) -> Any:
        """Return the module of Ray, connected; blocks.

        Raises:
            CapacityError: the cluster cannot be reached.
        """
        with self._lock:
            if self._ray is None:
                self._ray = _load()
            if not self._ray.is_initialized():
                self._init()
            return self._ray

    def disconnect(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._ray is not None and self._ray.is_initialized():
                self._ray.shutdown()

    def workers(self, memory_bytes: int) -> int:
        """Return how many workers of a size the memory of all nodes holds; blocks."""
        nodes = self.connect().nodes()
        alive = [one["Resources"].get("memory", 0) for one in nodes if one["Alive"]]
        return sum(int(memory // memory_bytes) for memory in alive)

    def _init(self) -> None:
        address = "auto" if self._address == OWN_NODE else self._address
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", address)
        try:
            self._ray.init(
                address=address,
                namespace="bnrecal",
                log_to_driver=False,
                logging_level=logging.ERROR,  # it warns that a thread connects
            )
        except Exception as error:
            text = f"the Ray cluster {address} cannot be used: {error}"
            raise CapacityError(text.splitlines()[0]) from error
        _log.info("Connected to the Ray cluster %s", address, extra={"action": "ray-connected"})


def _load() -> Any:
    # Read by Ray when it is loaded. Its own default until 2.61 is a cluster without a token.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return importlib.import_module("ray")


class RayShards:
    """Starts one actor for each shard.

    Args:
        cluster: the cluster.
        limits: limits of each worker.
        files: returns where a node finds the files of a shard.
    """

    def __init__(
        self, cluster: RayCluster, limits: Limits, files: Callable[[ShardJob], ShardFiles]
    ) -> None:
        self._cluster = cluster
        self._limits = limits
        self._files = files

    async def open(self, job: ShardJob, on_progress: OnShardProgress) -> RayShard:
        """Start an actor where there is memory for its worker."""
        ray = await asyncio.to_thread(self._cluster.connect)
        actor = (
            ray.remote(ShardActor)
            .options(
                num_cpus=self._limits.threads or 1,
                memory=self._limits.memory_bytes,
                max_restarts=0,
                max_concurrency=4,
                scheduling_strategy="SPREAD",
            )
            .remote()
        )
        shard = RayShard(ray, actor, job.index, on_progress)
        try:
            async with asyncio.timeout(PLACEMENT_SECONDS):
                await shard.ask("open", job, self._files(job), self._limits, __version__)
        except TimeoutError as error:
            await shard.close()
            raise CapacityError(
                f"the Ray cluster has had no place for shard {job.index} of {job.shards}, which "
                f"needs {self._limits.memory_bytes} bytes, for {PLACEMENT_SECONDS:g} seconds"
            ) from error
        except BaseException:
            await asyncio.shield(shard.close())
            raise
        return shard


class RayShard:
    """One actor."""

    def __init__(self, ray: Any, actor: Any, index: int, on_progress: OnShardProgress) -> None:
        self._ray = ray
        self._actor = actor
        self._index = index
        self._on_progress = on_progress
        self._closed = False

    @property
    def actor(self) -> Any:
        """The handle of the actor."""
        return self._actor

    async def call(self, members: dict[str, Any], content: bytes | None = None) -> bytes:
        """See `Shard.call`."""
        watching = asyncio.create_task(self._watch())
        try:
            return await self.ask("call", members, content)
        finally:
            watching.cancel()
            await asyncio.wait([watching])

    async def ask(self, method: str, *arguments: Any) -> bytes:
        """Call a method of the actor; return the content of its answer.

        Raises:
            RefusedError: the run is not possible.
            WorkerDiedError: the worker, the actor or its node has died.
        """
        try:
            answer: Answer = await getattr(self._actor, method).remote(*arguments)
        except self._ray.exceptions.RayError as error:
            text = str(error).partition("\n")[0]
            raise WorkerDiedError(f"shard {self._index} was lost on the cluster: {text}") from error
        if answer.refused is not None:
            message, code, details = answer.refused
            raise RefusedError(message, refusal=code, **details)
        if answer.content is None:
            raise WorkerDiedError(f"shard {self._index} was lost on its node: {answer.lost}")
        return answer.content

    async def close(self) -> None:
        """End the actor and its worker."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(self._ray.exceptions.RayError, TimeoutError):
            async with asyncio.timeout(1):
                await self._actor.close.remote()
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor)

    async def _watch(self) -> None:
        """Report the progress within a level until it is cancelled or the actor has died."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            while True:
                await asyncio.sleep(PROGRESS_SECONDS)
                step = await self._actor.progress.remote()
                if step is not None:
                    await self._on_progress(self._index, step)
