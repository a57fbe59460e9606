"""A shard on a Ray cluster, seen from the node: an actor around a worker of that node.

The actor is trusted and parses nothing: it starts the same sandboxed worker as `LocalShards`, and
passes bytes between the conductor and the worker. Ray loads this module on the node by its name, so
every node needs the same version of bnrecal.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bn_ops.core.version import __version__
from service.errors import RefusedError, ServiceError, StorageFailedError, WorkerDiedError
from service.settings import Settings
from service.storage.blobs.os_calls import OsCalls
from service.storage.blobs.protocol import BlobContent, Blobs
from service.storage.scratch import Scratch
from service.workers.messages import Limits
from service.workers.protocol import Progress
from service.workers.sharding.local import LocalShards
from service.workers.sharding.protocol import Shard, ShardJob

__all__ = ["Answer", "ShardActor", "ShardFiles"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFiles:
    """Where a node finds the model and the batches of a shard.

    Attributes:
        model: path of the model on a file system that all nodes share; None in object storage.
        batch_folder: path of the folder of batches there.
        blobs: URL of the object storage; empty for shared files.
        stored_model: the model in object storage.
        stored_folder: key of the folder of batches there.
        stored_batches: what the shard reads of it.
    """

    model: Path | None = None
    batch_folder: Path | None = None
    blobs: str = ""
    stored_model: BlobContent | None = None
    stored_folder: str = ""
    stored_batches: Sequence[BlobContent] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a call returns; exactly one member is set.

    Attributes:
        content: the worker's answer.
        refused: message, code and details of a refusal.
        lost: why the worker is lost.
    """

    content: bytes | None = None
    refused: tuple[str, str, dict[str, Any]] | None = None
    lost: str | None = None


class ShardActor:
    """Runs in a process of Ray, one for each shard."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._shard: Shard | None = None
        self._steps: list[Progress] = []

    async def open(self, job: ShardJob, files: ShardFiles, limits: Limits, version: str) -> Answer:
        """Fetch the files of a shard and start its worker.

        Args:
            job: what the shard measures.
            files: where they are.
            limits: limits of the worker.
            version: version of the process that asks.
        """
        if version != __version__:
            text = (
                f"a node of the Ray cluster has version {__version__} of bnrecal, and the runner "
                f"{version}: install the same on every node"
            )
            return Answer(refused=(text, "shard-mismatch", {}))
        try:
            workers, objects = _own_folders()
            model, folder = await self._files(files, objects)
            scratch = Scratch(workers)
            self._stack.callback(scratch.close)

            @asynccontextmanager
            async def workspace() -> AsyncIterator[Path]:
                yield scratch.new_folder(OsCalls())

            shards = LocalShards(
                Settings(worker_threads=limits.threads),
                limits,
                workspace,
                model=model,
                batch_folder=folder,
            )
            self._shard = await shards.open(job, self._note)
            self._stack.push_async_callback(self._shard.close)
        except ServiceError as error:
            return _failed(error)
        return Answer(content=b"")

    async def call(self, members: dict[str, Any], content: bytes | None) -> Answer:
        """See `Shard.call`."""
        if self._shard is None:
            return Answer(lost="the shard was not opened")
        try:
            return Answer(content=await self._shard.call(members, content))
        except ServiceError as error:
            return _failed(error)

    async def progress(self) -> Progress | None:
        """Return the last progress of the worker since the last call, or None."""
        steps, self._steps = self._steps, []
        return steps[-1] if steps else None

    async def pid(self) -> int:
        """Return the id of the actor's process."""
        return os.getpid()

    async def close(self) -> None:
        """End the worker and remove its files."""
        await self._stack.aclose()

    async def _files(self, files: ShardFiles, objects: Path) -> tuple[Path, Path]:
        """Return the paths of the model and of the folder of batches on this node.

        Args:
            files: where they are.
            objects: folder for what is fetched.
        """
        if files.stored_model is None:
            assert files.model is not None
            assert files.batch_folder is not None
            return files.model, files.batch_folder
        blobs = _open_objects(files.blobs, objects)
        self._stack.callback(blobs.close)
        model = await self._stack.enter_async_context(blobs.local(files.stored_model))
        folder = await self._stack.enter_async_context(
            blobs.local_folder(files.stored_folder, _pages(files.stored_batches))
        )
        return model, folder

    async def _note(self, index: int, step: Progress) -> None:
        del index
        self._steps.append(step)


def _open_objects(url: str, folder: Path) -> Blobs:
    """Open the object storage; it is loaded only where it is used."""
    from service.storage.blobs.objects import ObjectBlobs  # noqa: PLC0415

    return ObjectBlobs(url, folder)


def _own_folders() -> tuple[Path, Path]:
    """Return the folders for workers and for fetched objects, which the user's actors share.

    Raises:
        StorageFailedError: another user has created them, or a link in their place.
    """
    root = Path(tempfile.gettempdir()) / f"bnrecal-shards-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        root.mkdir(mode=0o700)
    found = root.lstat()  # every user may create a link there
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise StorageFailedError(f"{root} is not a folder of this user")
    folders = root / "workers", root / "objects"
    for folder in folders:
        folder.mkdir(mode=0o700, exist_ok=True)
    return folders


async def _pages(contents: Sequence[BlobContent]) -> AsyncIterator[Sequence[BlobContent]]:
    yield contents


def _failed(error: ServiceError) -> Answer:
    if isinstance(error, RefusedError):
        return Answer(refused=(error.message, error.refusal, dict(error.details)))
    if isinstance(error, WorkerDiedError):
        return Answer(lost=error.message)
    return Answer(lost=f"{type(error).__name__}: {error.message}")
