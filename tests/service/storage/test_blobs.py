"""Conformance of blob stores; each implementation is a fixture parameter."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from service.errors import NotFoundError, StorageFailedError
from service.storage.blobs.folder import FolderBlobs
from service.storage.blobs.objects import ObjectBlobs
from service.storage.blobs.protocol import BlobContent, Blobs
from service.storage.ledger.sqlite import SqliteLedger
from tests.support.s3 import ObjectServer

KEY = "models/abc/model.onnx"
FOLDER = "recalibrations/r/batches"
# More than one part of an object.
LARGE = os.urandom(1 << 20) * 17

Reopen = Callable[[], Blobs]


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.xdist_group("s3"))])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
    if request.param == "folder":
        return lambda: FolderBlobs(tmp_path / "root")
    s3: ObjectServer = request.getfixturevalue("s3")
    url = f"s3://{s3.bucket()}/some/prefix"
    return lambda: ObjectBlobs(url, tmp_path / "root")


@pytest.fixture
def blobs(reopen: Reopen) -> Blobs:
    return reopen()


def content_of(key: str, data: bytes, start: int | None = None) -> BlobContent:
    return BlobContent(
        key=key, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), start=start
    )


def write(blobs: Blobs, key: str, data: bytes) -> BlobContent:
    draft = blobs.draft()
    draft.write(data)
    draft.commit(key)
    return content_of(key, data)


def streamed(blobs: Blobs, content: BlobContent, start: int = 0, stop: int | None = None) -> bytes:
    async def collect() -> bytes:
        end = content.bytes if stop is None else stop
        return b"".join([block async for block in blobs.stream(content, start, end)])

    return asyncio.run(collect())


def fetched(blobs: Blobs, content: BlobContent) -> bytes:
    async def read() -> bytes:
        async with blobs.local(content) as path:
            assert path.name == content.key.rpartition("/")[2]
            return path.read_bytes()

    return asyncio.run(read())


def test_committed_blob_survives_restart(reopen: Reopen) -> None:
    content = write(reopen(), KEY, b"content")
    again = reopen()
    assert streamed(again, content) == fetched(again, content) == b"content"
    assert list(again.names("models")) == ["abc"]
    assert again.exists(KEY)


def test_draft_is_invisible_until_commit(blobs: Blobs) -> None:
    draft = blobs.draft()
    draft.write(memoryview(b"cont"))
    draft.write(bytearray(b"ent"))
    assert draft.path.read_bytes() == b"content"
    assert list(blobs.names("models")) == []
    assert not blobs.exists(KEY)
    draft.commit(KEY)
    assert not draft.path.exists()
    assert streamed(blobs, content_of(KEY, b"content")) == b"content"


def test_discard_is_idempotent(blobs: Blobs) -> None:
    draft = blobs.draft()
    for _ in range(2):
        draft.discard()
    assert not draft.path.exists()
    kept = blobs.draft()
    kept.write(b"x")
    kept.commit(KEY)
    kept.discard()
    assert blobs.exists(KEY)


def test_large_blob_in_parts(blobs: Blobs) -> None:
    content = write(blobs, KEY, LARGE)
    assert streamed(blobs, content) == LARGE
    assert fetched(blobs, content) == LARGE
    assert streamed(blobs, content, 3, 5) == LARGE[3:5]
    middle = 9 << 20
    assert streamed(blobs, content, middle - 10, middle + 10) == LARGE[middle - 10 : middle + 10]


def test_empty_blob(blobs: Blobs) -> None:
    content = write(blobs, KEY, b"")
    assert streamed(blobs, content) == fetched(blobs, content) == b""


def test_missing_blob(blobs: Blobs) -> None:
    assert not blobs.exists(KEY)
    with pytest.raises(NotFoundError):
        streamed(blobs, content_of(KEY, b"x"))


def test_workspace_file_is_adopted(blobs: Blobs) -> None:
    file = blobs.workspace() / "result"
    file.write_bytes(b"content")
    blobs.adopt(file, KEY)
    assert not file.exists()
    assert streamed(blobs, content_of(KEY, b"content")) == b"content"


def test_symlink_is_not_adopted(blobs: Blobs, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    link = blobs.workspace() / "result"
    link.symlink_to(secret)
    with pytest.raises(StorageFailedError):
        blobs.adopt(link, KEY)
    assert not blobs.exists(KEY)


def test_removal(blobs: Blobs) -> None:
    write(blobs, KEY, b"x")
    write(blobs, "models/abc/other", b"x")
    write(blobs, "models/abcd/model.onnx", b"x")
    blobs.remove("models/abc/other")
    assert list(blobs.names("models/abc")) == ["model.onnx"]
    for _ in range(2):
        blobs.remove("models/abc")
    assert list(blobs.names("models")) == ["abcd"]
    assert list(blobs.names("models/abc")) == []
    assert list(blobs.names("never")) == []


def test_names_of_a_minimum_age(blobs: Blobs) -> None:
    write(blobs, KEY, b"x")
    assert list(blobs.names("models")) == ["abc"]
    assert list(blobs.names("models", min_age_seconds=3600)) == []
    assert list(blobs.names("models", min_age_seconds=-3600)) == ["abc"]


def test_restart_removes_what_ended_processes_left(reopen: Reopen) -> None:
    first = reopen()
    draft, workspace = first.draft(), first.workspace()
    assert reopen().scratch.ended == frozenset()
    assert draft.path.exists()
    os.close(first.scratch._handle)  # as the kernel does when a process ends
    last = reopen()
    assert last.scratch.ended == {first.scratch.id}
    assert not draft.path.exists()
    assert not workspace.exists()


def test_start_learns_of_closed_stores(reopen: Reopen) -> None:
    first = reopen()
    draft = first.draft()
    first.close()
    assert not draft.path.exists()
    assert reopen().scratch.ended == {first.scratch.id}


def test_staged_blobs_are_durable_with_their_rows(reopen: Reopen, tmp_path: Path) -> None:
    """Many at the same time, in two folders; each is read back by another process."""
    blobs, ledger = reopen(), SqliteLedger(tmp_path / "ledger")
    folders = (FOLDER, "recalibrations/s/batches")

    async def stage(number: int) -> BlobContent:
        data = b"%d," % number * (number + 1)
        folder = folders[number % 2]
        staged = await blobs.stage(folder, bytearray(data))
        location = await ledger.write(staged.store)
        return content_of(f"{folder}/{location.name}", data, location.start)

    async def stage_all() -> list[BlobContent]:
        return await asyncio.gather(*map(stage, range(100)))

    contents = asyncio.run(stage_all())
    ledger.close()
    again = reopen()
    for folder in folders:
        of_folder = [one for one in contents if one.key.startswith(f"{folder}/")]
        assert len(of_folder) == 50
        names = {one.key.removeprefix(f"{folder}/") for one in of_folder}
        assert set(again.names(folder)) == names
        assert all(content_is_right(*pair) for pair in read_all(again, folder, of_folder))


def read_all(
    blobs: Blobs, folder: str, contents: Sequence[BlobContent]
) -> list[tuple[BlobContent, bytes]]:
    async def pages() -> AsyncIterator[Sequence[BlobContent]]:
        for start in range(0, len(contents), 7):
            yield contents[start : start + 7]

    async def read() -> list[tuple[BlobContent, bytes]]:
        async with blobs.local_folder(folder, pages()) as path:
            return [(one, part_of(path, one)) for one in contents]

    return asyncio.run(read())


def part_of(folder: Path, content: BlobContent) -> bytes:
    data = (folder / content.key.rpartition("/")[2]).read_bytes()
    start = content.start or 0
    return data[start : start + content.bytes]


def content_is_right(content: BlobContent, data: bytes) -> bool:
    return hashlib.sha256(data).hexdigest() == content.sha256


def test_local_folder_of_packs_and_files(blobs: Blobs, tmp_path: Path) -> None:
    ledger = SqliteLedger(tmp_path / "ledger")

    async def stage() -> BlobContent:
        staged = await blobs.stage(FOLDER, b"small")
        location = await ledger.write(staged.store)
        return content_of(f"{FOLDER}/{location.name}", b"small", location.start)

    contents = [write(blobs, f"{FOLDER}/large", LARGE), asyncio.run(stage())]
    contents += [write(blobs, f"{FOLDER}/file{number}", b"%d" % number) for number in range(20)]
    ledger.close()
    assert all(content_is_right(*pair) for pair in read_all(blobs, FOLDER, contents))


def test_fetched_files_are_removed(blobs: Blobs) -> None:
    content = write(blobs, KEY, b"x")
    fetched(blobs, content)
    assert list(blobs.scratch.folder.iterdir()) == []
    assert streamed(blobs, content) == b"x"


def test_working_store_reports_no_failure(blobs: Blobs) -> None:
    assert asyncio.run(blobs.check()) is None
    assert blobs.failure is None
