"""What every store of blobs must do; each implementation is one fixture parameter."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from service.errors import StartError, StorageFailedError, StorageFullError
from service.storage.blobs import packs
from service.storage.blobs.folder import FolderBlobs
from service.storage.blobs.os_calls import System
from service.storage.blobs.protocol import Blobs, Place

OPEN: dict[str, Callable[[Path], Blobs]] = {"folder": FolderBlobs}
KEY = "models/abc/model.onnx"


@pytest.fixture(params=OPEN)
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Blobs]:
    return lambda: OPEN[request.param](tmp_path / "root")


@pytest.fixture
def blobs(reopen: Callable[[], Blobs]) -> Blobs:
    return reopen()


def write(blobs: Blobs, key: str, content: bytes) -> None:
    draft = blobs.draft()
    draft.write(content)
    draft.commit(key)


def test_a_committed_blob_is_there_and_outlives_the_process(reopen: Callable[[], Blobs]) -> None:
    write(reopen(), KEY, b"content")
    again = reopen()
    assert again.path(KEY).read_bytes() == b"content"
    assert list(again.names("models")) == ["abc"]


def test_a_draft_is_seen_by_nobody_until_it_is_committed(blobs: Blobs) -> None:
    draft = blobs.draft()
    draft.write(memoryview(b"cont"))
    draft.write(bytearray(b"ent"))
    assert draft.path.read_bytes() == b"content"
    assert list(blobs.names("models")) == []
    draft.commit(KEY)
    assert not draft.path.exists()
    assert blobs.path(KEY).read_bytes() == b"content"


def test_drafts_leave_the_reserve_and_results_take_it(tmp_path: Path) -> None:
    class Nearly(System):
        left = 1000

        def free(self, path: Path) -> int:
            assert path == tmp_path / "low"
            return self.left

    system = Nearly()
    blobs = FolderBlobs(tmp_path / "low", system=system, reserve_bytes=1000)
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


def test_discarding_is_harmless_at_any_time(blobs: Blobs) -> None:
    draft = blobs.draft()
    for _ in range(2):
        draft.discard()
    assert not draft.path.exists()
    kept = blobs.draft()
    kept.write(b"x")
    kept.commit(KEY)
    kept.discard()
    assert blobs.path(KEY).exists()


def test_a_commit_replaces_what_was_there(blobs: Blobs) -> None:
    write(blobs, KEY, b"old")
    write(blobs, KEY, b"new")
    assert blobs.path(KEY).read_bytes() == b"new"


def test_drafts_and_workspaces_do_not_outlive_the_process(reopen: Callable[[], Blobs]) -> None:
    first = reopen()
    draft, workspace = first.draft(), first.workspace()
    reopen()
    assert not draft.path.exists()
    assert not workspace.exists()


def test_a_file_of_a_workspace_can_be_adopted(blobs: Blobs) -> None:
    file = blobs.workspace() / "result"
    file.write_bytes(b"content")
    blobs.adopt(file, KEY)
    assert not file.exists()
    assert blobs.path(KEY).read_bytes() == b"content"


def test_a_link_is_never_adopted(blobs: Blobs, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    link = blobs.workspace() / "result"
    link.symlink_to(secret)
    with pytest.raises(StorageFailedError):
        blobs.adopt(link, KEY)
    assert not blobs.path(KEY).exists()


def test_removing_is_harmless_when_nothing_is_there(blobs: Blobs) -> None:
    write(blobs, KEY, b"x")
    for _ in range(2):
        blobs.remove("models/abc")
    assert list(blobs.names("models")) == []
    assert list(blobs.names("never")) == []


FOLDER = "recalibrations/r/batches"


def packed(blobs: Blobs, place: Place, size: int) -> bytes:
    assert place.start is not None
    return blobs.path(f"{FOLDER}/{place.name}").read_bytes()[place.start : place.start + size]


def test_small_blobs_lie_one_behind_the_other_and_outlive_the_process(
    reopen: Callable[[], Blobs],
) -> None:
    blobs = reopen()
    places = [blobs.packs.append(FOLDER, content) for content in (b"one", bytearray(b"three"))]
    blobs.packs.settle()
    places.append(blobs.packs.append(FOLDER, b"two"))
    blobs.packs.settle()
    assert [place.start for place in places] == [0, 3, 8]
    assert len({place.name for place in places}) == 1
    again = reopen()
    found = [packed(again, place, size) for place, size in zip(places, (3, 5, 3), strict=True)]
    assert found == [b"one", b"three", b"two"]


def test_a_new_process_writes_to_no_pack_of_an_earlier_one(reopen: Callable[[], Blobs]) -> None:
    """Behind what a crash has left, nobody knows where anything begins."""
    first = reopen()
    old = first.packs.append(FOLDER, b"old")
    first.packs.settle()
    second = reopen()
    new = second.packs.append(FOLDER, b"new")
    second.packs.settle()
    assert old.name != new.name
    assert packed(second, old, 3) == b"old"


def test_folders_have_packs_of_their_own_and_take_them_along(blobs: Blobs) -> None:
    blobs.packs.append(FOLDER, b"here")
    other = blobs.packs.append("recalibrations/s/batches", b"there")
    blobs.packs.settle()
    blobs.remove(FOLDER)
    assert list(blobs.names(FOLDER)) == []
    assert list(blobs.names("recalibrations/s/batches")) == [other.name]


def test_a_pack_is_followed_by_another_before_it_grows_without_bounds(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "LARGEST_PACK_BYTES", 10)
    places = []
    for _ in range(4):
        places.append(blobs.packs.append(FOLDER, b"123456"))
        blobs.packs.settle()
    assert [place.start for place in places] == [0, 6, 0, 6]
    assert all(packed(blobs, place, 6) == b"123456" for place in places)


def test_packs_of_more_folders_than_are_remembered_are_whole(
    blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packs, "MOST_FOLDERS", 2)
    for round_ in range(2):
        for number in range(5):
            blobs.packs.append(f"recalibrations/{number}/batches", b"%d%d" % (round_, number))
        blobs.packs.settle()
    for number in range(5):
        folder = f"recalibrations/{number}/batches"
        contents = [blobs.path(f"{folder}/{name}").read_bytes() for name in blobs.names(folder)]
        assert b"".join(sorted(contents)) == b"0%d1%d" % (number, number)


class Disk(System):
    """Records what it was asked to make durable, and fails on demand."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.error = errno.EIO

    def fsync(self, handle: int) -> None:
        self.calls.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        if len(self.calls) - 1 == self.fail_at:
            raise OSError(self.error, "as asked")
        super().fsync(handle)


def test_file_then_folders_are_made_durable_in_this_order(tmp_path: Path) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, system=disk)
    disk.calls.clear()
    write(blobs, KEY, b"x")
    staged, *folders = disk.calls
    assert Path(staged).parent == tmp_path / "staging"
    # Every folder that gained a name, and at last the destination with the file in it.
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
def test_a_failed_fsync_of_the_file_refuses_this_file_alone(
    tmp_path: Path, error: int, raised: type[Exception]
) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, system=disk)
    disk.calls.clear()
    disk.fail_at, disk.error = 0, error
    with pytest.raises(raised):
        write(blobs, KEY, b"x")
    assert not blobs.path(KEY).exists()
    assert list(blobs.names("staging")) == []
    assert blobs.failure is None
    write(blobs, KEY, b"x")


def test_a_pack_is_made_durable_before_its_name_and_its_name_only_once(tmp_path: Path) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, system=disk)
    blobs.packs.append(FOLDER, b"x")
    disk.calls.clear()
    blobs.packs.append(FOLDER, b"y")
    blobs.packs.settle()
    folder = tmp_path / FOLDER
    (name,) = [path.name for path in folder.iterdir()]
    assert disk.calls == [str(folder / name), str(folder)]
    disk.calls.clear()
    blobs.packs.append(FOLDER, b"z")
    blobs.packs.settle()
    assert disk.calls == [str(folder / name)]


@pytest.mark.parametrize("place", [0, 1])
def test_after_a_failed_fsync_of_a_new_pack_nothing_of_it_is_left(
    tmp_path: Path, place: int
) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, system=disk)
    blobs.packs.append(FOLDER, b"x")
    disk.calls.clear()
    disk.fail_at = place
    with pytest.raises(StorageFailedError):
        blobs.packs.settle()
    blobs.packs.abandon()
    assert list(blobs.names(FOLDER)) == []
    # The names in a folder concern everybody, a pack only itself.
    assert (blobs.failure is None) == (place == 0)


def test_after_a_failed_fsync_a_pack_has_what_it_had_and_gets_no_more(tmp_path: Path) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, system=disk)
    first = blobs.packs.append(FOLDER, b"x")
    blobs.packs.settle()
    disk.calls.clear()
    disk.fail_at = 0
    for _ in range(5):
        blobs.packs.append(FOLDER, b"refused")
        disk.calls.clear()
        with pytest.raises(StorageFailedError):
            blobs.packs.settle()
        blobs.packs.abandon()
    assert [blobs.path(f"{FOLDER}/{name}").read_bytes() for name in blobs.names(FOLDER)] == [b"x"]
    disk.fail_at = None
    last = blobs.packs.append(FOLDER, b"y")
    blobs.packs.settle()
    assert last.name != first.name
    assert (packed(blobs, first, 1), packed(blobs, last, 1)) == (b"x", b"y")


def test_what_is_abandoned_is_gone_and_what_was_settled_stays(blobs: Blobs) -> None:
    kept = blobs.packs.append(FOLDER, b"kept")
    blobs.packs.settle()
    blobs.packs.abandon()
    blobs.packs.append(FOLDER, b"undone")
    blobs.packs.append("recalibrations/s/batches", b"undone")
    blobs.packs.abandon()
    assert blobs.path(f"{FOLDER}/{kept.name}").read_bytes() == b"kept"
    assert list(blobs.names(FOLDER)) == [kept.name]
    assert list(blobs.names("recalibrations/s/batches")) == []


def test_a_folder_that_goes_with_an_undone_append_hurts_nobody(blobs: Blobs) -> None:
    blobs.packs.append(FOLDER, b"undone")
    blobs.packs.abandon()
    blobs.remove("recalibrations/r")
    place = blobs.packs.append("recalibrations/s/batches", b"x")
    blobs.packs.settle()
    assert blobs.failure is None
    assert blobs.path(f"recalibrations/s/batches/{place.name}").read_bytes() == b"x"


def test_a_write_that_fails_midway_is_cut_off(tmp_path: Path) -> None:
    class Full(System):
        left = 5

        def write(self, handle: int, data: memoryview) -> int:
            if self.left == 0:
                raise OSError(errno.ENOSPC, "as asked")
            taken = super().write(handle, data[: self.left])
            self.left -= taken
            return taken

    system = Full()
    blobs = FolderBlobs(tmp_path, system=system)
    first = blobs.packs.append(FOLDER, b"abc")
    for _ in range(5):
        with pytest.raises(StorageFullError):
            blobs.packs.append(FOLDER, b"defg")
    system.left = 100
    second = blobs.packs.append(FOLDER, b"hij")
    blobs.packs.settle()
    assert (first.name, second.start) == (second.name, 3)
    assert [path.read_bytes() for path in (tmp_path / FOLDER).iterdir()] == [b"abchij"]


def test_handles_of_packs_are_closed(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(5):
        blobs.packs.append(f"recalibrations/{number}/batches", b"x")
    blobs.packs.settle()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_failed_fsync_of_a_folder_refuses_everything_from_then_on(
    tmp_path: Path, place: int
) -> None:
    disk = Disk()
    blobs = FolderBlobs(tmp_path, system=disk)
    disk.calls.clear()
    disk.fail_at = place
    with pytest.raises(StorageFailedError):
        write(blobs, KEY, b"x")
    assert blobs.failure is not None
    with pytest.raises(StorageFailedError, match="restart"):
        write(blobs, "other", b"x")


def test_a_folder_that_an_earlier_server_made_is_made_durable_before_it_is_relied_on(
    tmp_path: Path,
) -> None:
    """The earlier one may have been killed between making the folder and the fsync."""
    write(FolderBlobs(tmp_path), KEY, b"x")
    disk = Disk()
    blobs = FolderBlobs(tmp_path, system=disk)
    disk.calls.clear()
    write(blobs, "models/abc/other", b"x")
    assert {str(tmp_path), str(tmp_path / "models")} <= set(disk.calls)


def test_a_data_folder_that_cannot_be_used_is_a_refusal_to_start(tmp_path: Path) -> None:
    disk = Disk()
    disk.fail_at = 0
    with pytest.raises(StartError, match="EIO"):
        FolderBlobs(tmp_path / "new", system=disk)


def test_a_folder_that_vanishes_under_a_draft_is_a_refusal(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path)
    draft = blobs.draft()
    draft.write(b"x")
    draft.path.unlink()
    with pytest.raises(StorageFailedError):
        draft.commit(KEY)
