"""The blob store in a folder: what it does beyond the conformance of all stores."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import StartError, StorageFailedError, StorageFullError
from service.storage.blobs.folder import FolderBlobs
from service.storage.blobs.os_calls import OsCalls
from service.storage.blobs.protocol import BlobLocation

KEY = "models/abc/model.onnx"


@pytest.fixture
def reopen(tmp_path: Path) -> Callable[[], FolderBlobs]:
    return lambda: FolderBlobs(tmp_path / "root")


@pytest.fixture
def blobs(reopen: Callable[[], FolderBlobs]) -> FolderBlobs:
    return reopen()


def write(blobs: FolderBlobs, key: str, content: bytes) -> None:
    draft = blobs.draft()
    draft.write(content)
    draft.commit(key)


def test_only_results_use_the_reserve(tmp_path: Path) -> None:
    class Nearly(OsCalls):
        left = 1000

        def free_bytes(self, path: Path) -> int:
            assert path == tmp_path / "low"
            return self.left

    system = Nearly()
    blobs = FolderBlobs(tmp_path / "low", calls=system, reserve_bytes=1000)
    write(blobs, KEY, b"content")
    draft = blobs.draft()
    draft.write(b"first")
    system.left = 999
    with pytest.raises(StorageFullError, match="1000 bytes are free"):
        draft.write(b"second")
    draft.discard()
    with pytest.raises(StorageFullError):
        write(blobs, "models/abc/other", b"x")
    result = blobs.workspace() / "result"
    result.write_bytes(b"result")
    blobs.adopt(result, "recalibrations/r/results/model")
    assert blobs.path("recalibrations/r/results/model").read_bytes() == b"result"
    system.left = 1000
    write(blobs, "models/abc/other", b"x")


def test_commit_replaces_the_blob(blobs: FolderBlobs) -> None:
    write(blobs, KEY, b"old")
    write(blobs, KEY, b"new")
    assert blobs.path(KEY).read_bytes() == b"new"


def test_restart_removes_drafts_and_workspaces(reopen: Callable[[], FolderBlobs]) -> None:
    first = reopen()
    draft, workspace = first.draft(), first.workspace()
    (first.path("staging") / "of an earlier version").mkdir()
    assert reopen().scratch.ended == frozenset()
    assert draft.path.exists()
    os.close(first.scratch._handle)  # as the kernel does when a process ends
    last = reopen()
    assert last.scratch.ended == {first.scratch.id}
    assert not draft.path.exists()
    assert not workspace.exists()
    assert first.scratch.id not in "".join(last.names("staging"))
    assert "of an earlier version" not in last.names("staging")


def test_folder_removed_by_another_process(reopen: Callable[[], FolderBlobs]) -> None:
    first, second = reopen(), reopen()
    write(first, KEY, b"x")
    second.remove("models")
    write(first, KEY, b"y")
    assert second.path(KEY).read_bytes() == b"y"


def test_names_of_a_minimum_age(blobs: FolderBlobs) -> None:
    write(blobs, "models/old/model.onnx", b"x")
    write(blobs, "models/new/model.onnx", b"x")
    os.utime(blobs.path("models/old"), (0, 0))
    assert sorted(blobs.names("models")) == ["new", "old"]
    assert list(blobs.names("models", min_age_seconds=3600)) == ["old"]


FOLDER = "recalibrations/r/batches"


def packed(blobs: FolderBlobs, place: BlobLocation, size: int) -> bytes:
    assert place.start is not None
    return blobs.path(f"{FOLDER}/{place.name}").read_bytes()[place.start : place.start + size]


def test_packed_blobs_are_concatenated_and_survive_restart(
    reopen: Callable[[], FolderBlobs],
) -> None:
    blobs = reopen()
    places = [blobs.packs.append(FOLDER, content) for content in (b"one", bytearray(b"three"))]
    blobs.packs.flush()
    places.append(blobs.packs.append(FOLDER, b"two"))
    blobs.packs.flush()
    assert [place.start for place in places] == [0, 3, 8]
    assert len({place.name for place in places}) == 1
    again = reopen()
    found = [packed(again, place, size) for place, size in zip(places, (3, 5, 3), strict=True)]
    assert found == [b"one", b"three", b"two"]


def test_restart_starts_a_new_pack(reopen: Callable[[], FolderBlobs]) -> None:
    """After a crash, the end of an existing pack is unknown."""
    first = reopen()
    old = first.packs.append(FOLDER, b"old")
    first.packs.flush()
    second = reopen()
    new = second.packs.append(FOLDER, b"new")
    second.packs.flush()
    assert old.name != new.name
    assert packed(second, old, 3) == b"old"


def test_packs_are_per_folder(blobs: FolderBlobs) -> None:
    blobs.packs.append(FOLDER, b"here")
    other = blobs.packs.append("recalibrations/s/batches", b"there")
    blobs.packs.flush()
    blobs.remove(FOLDER)
    assert list(blobs.names(FOLDER)) == []
    assert list(blobs.names("recalibrations/s/batches")) == [other.name]


def test_pack_size_is_limited(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "root", max_pack_bytes=10)
    places = []
    for _ in range(4):
        places.append(blobs.packs.append(FOLDER, b"123456"))
        blobs.packs.flush()
    assert [place.start for place in places] == [0, 6, 0, 6]
    assert all(packed(blobs, place, 6) == b"123456" for place in places)


def test_packs_beyond_the_open_folder_limit(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "root", max_pack_folders=2)
    for round_ in range(2):
        for number in range(5):
            blobs.packs.append(f"recalibrations/{number}/batches", b"%d%d" % (round_, number))
        blobs.packs.flush()
    for number in range(5):
        folder = f"recalibrations/{number}/batches"
        contents = [blobs.path(f"{folder}/{name}").read_bytes() for name in blobs.names(folder)]
        assert b"".join(sorted(contents)) == b"0%d1%d" % (number, number)


class Disk(OsCalls):
    """Record fsync calls, and fail on demand."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.error = errno.EIO

    def fsync(self, handle: int) -> None:
        self.calls.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        if len(self.calls) - 1 == self.fail_at:
            raise OSError(self.error, "injected")
        super().fsync(handle)


def test_fsync_order_of_file_and_folders(tmp_path: Path) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, calls=disk)
    disk.calls.clear()
    write(blobs, KEY, b"x")
    staged, *folders = disk.calls
    assert Path(staged).parent == blobs.scratch.folder
    # Every folder with a new entry; last, the folder that contains the file.
    assert folders == [str(tmp_path), str(tmp_path / "models"), str(tmp_path / "models/abc")]
    disk.calls.clear()
    write(blobs, "models/abc/other", b"x")
    assert disk.calls[1:] == [str(tmp_path / "models/abc")]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (errno.EIO, StorageFailedError),
        (errno.ENOSPC, StorageFullError),
        (errno.EDQUOT, StorageFullError),
    ],
)
def test_failed_fsync_of_file(tmp_path: Path, error: int, raised: type[Exception]) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, calls=disk)
    disk.calls.clear()
    disk.fail_at, disk.error = 0, error
    with pytest.raises(raised):
        write(blobs, KEY, b"x")
    assert not blobs.path(KEY).exists()
    assert list(blobs.scratch.folder.iterdir()) == []
    assert blobs.failure is None
    write(blobs, KEY, b"x")


def test_fsync_order_of_packs(tmp_path: Path) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, calls=disk)
    blobs.packs.append(FOLDER, b"x")
    disk.calls.clear()
    blobs.packs.append(FOLDER, b"y")
    blobs.packs.flush()
    folder = tmp_path / FOLDER
    (name,) = [path.name for path in folder.iterdir()]
    assert disk.calls == [str(folder / name), str(folder)]
    disk.calls.clear()
    blobs.packs.append(FOLDER, b"z")
    blobs.packs.flush()
    assert disk.calls == [str(folder / name)]


@pytest.mark.parametrize("place", [0, 1])
def test_failed_fsync_removes_new_pack(tmp_path: Path, place: int) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, calls=disk)
    blobs.packs.append(FOLDER, b"x")
    disk.calls.clear()
    disk.fail_at = place
    with pytest.raises(StorageFailedError):
        blobs.packs.flush()
    blobs.packs.rollback()
    assert list(blobs.names(FOLDER)) == []
    # A folder affects all blobs, a pack only its own.
    assert (blobs.failure is None) == (place == 0)


def test_failed_fsync_seals_existing_pack(tmp_path: Path) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, calls=disk)
    first = blobs.packs.append(FOLDER, b"x")
    blobs.packs.flush()
    disk.calls.clear()
    disk.fail_at = 0
    for _ in range(5):
        blobs.packs.append(FOLDER, b"rejected")
        disk.calls.clear()
        with pytest.raises(StorageFailedError):
            blobs.packs.flush()
        blobs.packs.rollback()
    assert [blobs.path(f"{FOLDER}/{name}").read_bytes() for name in blobs.names(FOLDER)] == [b"x"]
    disk.fail_at = None
    last = blobs.packs.append(FOLDER, b"y")
    blobs.packs.flush()
    assert last.name != first.name
    assert (packed(blobs, first, 1), packed(blobs, last, 1)) == (b"x", b"y")


def test_rollback_removes_unflushed_content(blobs: FolderBlobs) -> None:
    kept = blobs.packs.append(FOLDER, b"kept")
    blobs.packs.flush()
    blobs.packs.rollback()
    blobs.packs.append(FOLDER, b"undone")
    blobs.packs.append("recalibrations/s/batches", b"undone")
    blobs.packs.rollback()
    assert blobs.path(f"{FOLDER}/{kept.name}").read_bytes() == b"kept"
    assert list(blobs.names(FOLDER)) == [kept.name]
    assert list(blobs.names("recalibrations/s/batches")) == []


def test_removal_of_folder_after_rollback(blobs: FolderBlobs) -> None:
    blobs.packs.append(FOLDER, b"undone")
    blobs.packs.rollback()
    blobs.remove("recalibrations/r")
    place = blobs.packs.append("recalibrations/s/batches", b"x")
    blobs.packs.flush()
    assert blobs.failure is None
    assert blobs.path(f"recalibrations/s/batches/{place.name}").read_bytes() == b"x"


def test_partial_write_is_truncated(tmp_path: Path) -> None:
    class Full(OsCalls):
        left = 5

        def write(self, handle: int, data: memoryview) -> int:
            if self.left == 0:
                raise OSError(errno.ENOSPC, "injected")
            taken = super().write(handle, data[: self.left])
            self.left -= taken
            return taken

    system = Full()
    blobs = FolderBlobs(tmp_path, calls=system)
    first = blobs.packs.append(FOLDER, b"abc")
    for _ in range(5):
        with pytest.raises(StorageFullError):
            blobs.packs.append(FOLDER, b"defg")
    system.left = 100
    second = blobs.packs.append(FOLDER, b"hij")
    blobs.packs.flush()
    assert (first.name, second.start) == (second.name, 3)
    assert [path.read_bytes() for path in (tmp_path / FOLDER).iterdir()] == [b"abchij"]


def test_pack_handles_are_closed(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(5):
        blobs.packs.append(f"recalibrations/{number}/batches", b"x")
    blobs.packs.flush()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("place", [1, 2, 3])
def test_failed_fsync_of_folder_stops_the_store(tmp_path: Path, place: int) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, calls=disk)
    disk.calls.clear()
    disk.fail_at = place
    with pytest.raises(StorageFailedError):
        write(blobs, KEY, b"x")
    assert blobs.failure is not None
    with pytest.raises(StorageFailedError, match="restart"):
        write(blobs, "other", b"x")


def test_existing_folders_are_fsynced(
    tmp_path: Path,
) -> None:
    """The previous server may have been killed between mkdir and fsync."""
    write(FolderBlobs(tmp_path), KEY, b"x")
    disk = Disk()
    blobs = FolderBlobs(tmp_path, calls=disk)
    disk.calls.clear()
    write(blobs, "models/abc/other", b"x")
    assert {str(tmp_path), str(tmp_path / "models")} <= set(disk.calls)


def test_unusable_data_folder_prevents_start(tmp_path: Path) -> None:
    disk = Disk()
    disk.fail_at = 0
    with pytest.raises(StartError, match="EIO"):
        FolderBlobs(tmp_path / "new", calls=disk)


def test_deleted_draft_cannot_be_committed(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    draft = blobs.draft()
    draft.write(b"x")
    draft.path.unlink()
    with pytest.raises(StorageFailedError):
        draft.commit(KEY)
