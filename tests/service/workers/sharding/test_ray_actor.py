"""The actor of a shard, without Ray: where it finds its files, and what it answers."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bn_ops.core.version import __version__
from service.settings import Settings
from service.storage.blobs.protocol import BlobContent
from service.workers.protocol import Job
from service.workers.sharding import ray_actor
from service.workers.sharding.cut import cut
from service.workers.sharding.protocol import ShardJob
from service.workers.sharding.ray_actor import Answer, ShardActor, ShardFiles
from service.workers.sharding.run import shard_limits
from tests.support.sharded_jobs import NETWORKS, SIZES, make_job, spoil


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return make_job(tmp_path / "run", NETWORKS["optimized"], SIZES["even"])


@pytest.fixture(autouse=True)
def _own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


async def second_shard(job: Job) -> ShardJob:
    batches = [one async for page in job.batches() for one in page]
    part = cut(batches, 2, "aligned")[1]
    return ShardJob(
        index=1,
        part=part,
        batches=batches[part.first : part.stop],
        inputs=job.inputs,
        options={**job.options, "execution": "auto"},
        shards=2,
    )


async def asked(job: Job, files: ShardFiles, version: str = __version__) -> list[Answer]:
    """Open an actor and make its first call."""
    actor = ShardActor()
    limits = shard_limits(Settings(worker_threads=1), None, None)
    try:
        found = [await actor.open(await second_shard(job), files, limits, version)]
        found.append(await actor.call({"call": "step"}, b""))
        if found[-1].content is not None:
            step = await actor.progress()
            assert step is not None
            assert step.phase == "reading"
            assert await actor.progress() is None
        return found
    finally:
        await actor.close()


def shared(job: Job) -> ShardFiles:
    return ShardFiles(model=job.model, batch_folder=job.batch_folder)


class Stored:
    """An object store whose objects are the files of a run."""

    def __init__(self, url: str, folder: Path) -> None:
        assert url == "s3://bucket/prefix"
        assert folder.is_dir()
        (folder / "fetched").touch()
        self.fetched: list[str] = []
        self.closed = False
        STORES.append(self)

    @asynccontextmanager
    async def local(self, content: BlobContent) -> AsyncIterator[Path]:
        self.fetched.append(content.key)
        yield Path(content.key)

    @asynccontextmanager
    async def local_folder(
        self, folder: str, contents: AsyncIterator[Sequence[BlobContent]]
    ) -> AsyncIterator[Path]:
        self.fetched += [one.key async for page in contents for one in page]
        yield Path(folder)

    def close(self) -> None:
        self.closed = True


STORES: list[Stored] = []


def test_stored_and_shared_files_give_the_same_moments(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_actor, "_open_objects", Stored)
    stored = ShardFiles(
        blobs="s3://bucket/prefix",
        stored_model=BlobContent(key=str(job.model), bytes=1, sha256=""),
        stored_folder=str(job.batch_folder),
        stored_batches=(BlobContent(key="some", bytes=1, sha256=""),),
    )
    of_shared = asyncio.run(asked(job, shared(job)))
    of_stored = asyncio.run(asked(job, stored))
    assert of_shared == of_stored
    assert of_shared[1].content
    (store,) = STORES
    assert store.fetched == [str(job.model), "some"]
    assert store.closed
    # Nothing but the locks of the scratch folders is left, and nothing else was removed.
    left = {path.suffix or path.name for path in (tmp_path / "temporary").rglob("*.*")}
    assert left == {".lock"}
    assert len(list((tmp_path / "temporary").rglob("fetched"))) == 1


def test_another_version_is_refused(job: Job) -> None:
    opened, called = asyncio.run(asked(job, shared(job), "0.0.1"))
    assert opened.refused is not None
    assert opened.refused[1] == "shard-mismatch"
    assert called.lost == "the shard was not opened"


def test_refusals_and_deaths_are_answers(job: Job) -> None:
    spoil(job, 8)
    opened, called = asyncio.run(asked(job, shared(job)))
    assert opened.content == b""
    assert called.refused is not None
    message, code, details = called.refused
    assert message.startswith("in the shard that begins with batch 4, counted from there: batch 4")
    assert (code, details) == ("batch-not-finite", {"batch": 8, "input": "x"})
    job.model.unlink()
    _, called = asyncio.run(asked(job, shared(job)))
    assert called.refused is not None
    assert called.refused[1] == "model-invalid"


def test_a_dead_worker_is_reported(job: Job) -> None:
    async def killed(actor: ShardActor) -> Answer:
        limits = shard_limits(Settings(worker_threads=1), None, None)
        await actor.open(await second_shard(job), shared(job), limits, __version__)
        worker: Any = actor._shard
        worker._worker._process.kill()
        answer = await actor.call({"call": "step"}, b"")
        await actor.close()
        return answer

    answer = asyncio.run(killed(ShardActor()))
    assert answer.lost == "the worker was killed by SIGKILL"


@pytest.mark.parametrize("kind", ["link", "file", "another user"])
def test_folder_of_another_user_is_not_used(
    job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    user = os.getuid() + (kind == "another user")
    monkeypatch.setattr(os, "getuid", lambda: user)
    root = tmp_path / "temporary" / f"bnrecal-shards-{user}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "link":
        root.symlink_to(elsewhere)
    elif kind == "file":
        root.touch()
    else:
        root.mkdir()
    opened, _ = asyncio.run(asked(job, shared(job)))
    assert opened.lost == f"StorageFailedError: {root} is not a folder of this user"
    assert list(elsewhere.iterdir()) == []
