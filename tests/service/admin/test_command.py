from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import apsw
import pytest

from service.admin.blob_files import LocalFiles
from service.admin.command import main
from service.errors import StartError
from service.settings import Settings
from service.storage.data_folder import locked
from service.storage.ledger import schema
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, StartServer, batch, safetensors

Admin = Callable[..., dict[str, Any]]


@pytest.fixture
def admin(settings: Settings, capsys: pytest.CaptureFixture[str]) -> Admin:
    """Run a command on the server's folder; return its JSON, with the exit status as `status`."""

    def run(*words: object) -> dict[str, Any]:
        if words[0] == "check":
            words = (*words, "--recheck-seconds", 0.1)
        status = main(["--data-dir", str(settings.data_dir), "--json", *map(str, words)])
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found | {"status": status}

    return run


def kept(api: Api) -> str:
    """Return an ended recalibration that keeps its data: two batches in a pack, one in a file."""
    name = api.open(keep_data=True)
    for index, samples in enumerate((2, 20_000, 2)):
        assert api.put(name, index, safetensors(x=batch(index, samples))).status_code == 201
    api.start(name, 3)
    api.wait(name)
    return name


def test_list_shows_contents_and_sizes(api: Api, admin: Admin, settings: Settings) -> None:
    ended, open_one = kept(api), api.open()
    found = admin("list")
    rows = {row["id"]: row for row in found["recalibrations"]}
    assert rows[ended]["batch_bytes"] == api.get(ended).json()["batches"]["bytes"]
    assert rows[ended]["result_bytes"] > 0
    assert rows[open_one]["state"] == "open"
    assert found["models"][0]["recalibrations"] == 2
    sizes = [path.stat().st_size for path in blobs(settings)]
    assert found["total_bytes"] == sum(sizes)
    assert [row["id"] for row in admin("list", "--state", "open")["recalibrations"]] == [open_one]


def blobs(settings: Settings) -> list[Path]:
    folder = settings.data_dir
    return [
        path
        for name in ("models", "recalibrations")
        for path in (folder / name).rglob("*")
        if path.is_file()
    ]


def test_check_of_an_intact_folder(api: Api, admin: Admin, settings: Settings) -> None:
    kept(api)
    files = len(blobs(settings))
    assert admin("check") == {
        "files": files,
        "digests": "compared",
        "faults": [],
        "status": 0,
    }


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_check_while_data_is_removed(
    api: Api, admin: Admin, settings: Settings, removed: int
) -> None:
    """A server was stopped after it had removed some files of an ended recalibration."""
    name = kept(api)
    connection = apsw.Connection(str(settings.data_dir / "ledger.sqlite3"))
    connection.set_busy_timeout(10_000)  # the server may still be writing
    connection.execute("UPDATE recalibration SET keep_data = 0 WHERE id = ?", (name,))
    connection.close()
    found = sorted((settings.data_dir / f"recalibrations/{name}/batches").iterdir())
    assert len(found) == 2
    for path in found[:removed]:
        path.unlink()
    assert (admin("check")["faults"], admin("check")["status"]) == ([], 0)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["/models/", ".pack", ".safetensors", "/results/"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [(_truncate, "bytes"), (_flip_bit, "other content"), (Path.unlink, "is missing")],
)
def test_check_finds_damaged_files(
    *,
    api: Api,
    admin: Admin,
    settings: Settings,
    kind: str,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    kept(api)
    path = next(path for path in blobs(settings) if kind in path.as_posix())
    damage(path)
    found = admin("check")
    assert found["status"] == 1
    assert len(found["faults"]) == 1
    assert message in found["faults"][0]
    assert path.name in found["faults"][0]


def test_check_finds_orphaned_files(api: Api, admin: Admin, settings: Settings) -> None:
    name = kept(api)
    (settings.data_dir / f"recalibrations/{name}/batches/stray").touch()
    (settings.data_dir / "models/stray").touch()
    assert [fault.split(" has ")[0] for fault in admin("check")["faults"]] == [
        "models/stray",
        f"recalibrations/{name}/batches/stray",
    ]


def test_purge_keeps_open_recalibrations(api: Api, admin: Admin, settings: Settings) -> None:
    ended, open_one = kept(api), api.open()
    assert admin("purge", "--expired")["recalibrations"] == []
    assert admin("purge", "--ended")["recalibrations"] == [ended]
    assert api.get(ended).status_code == 404
    assert api.get(open_one).status_code == 200
    assert not (settings.data_dir / f"recalibrations/{ended}").exists()
    assert admin("check")["faults"] == []


def test_purge_deletes_models_while_server_runs(
    api: Api, admin: Admin, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = kept(api)
    model = api.get(name).json()["model"]
    monkeypatch.setenv("BNRECAL_ENDED_RETENTION_SECONDS", "0.001")
    monkeypatch.setenv("BNRECAL_MODEL_RETENTION_SECONDS", "0.001")
    found = admin("purge", "--expired")
    assert (found["recalibrations"], found["models"]) == ([name], [model])
    assert list((settings.data_dir / "models").iterdir()) == []
    assert admin("check")["faults"] == []


def test_purge_keeps_reuploaded_model(
    api: Api, admin: Admin, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = kept(api)
    uploads = []

    remove = LocalFiles.remove

    def removed(files: LocalFiles, folder: str) -> None:
        if folder.startswith("models/"):  # its row is deleted, its file not yet
            uploads.append(api.upload_model().status_code)
        remove(files, folder)

    monkeypatch.setattr(LocalFiles, "remove", removed)
    monkeypatch.setenv("BNRECAL_ENDED_RETENTION_SECONDS", "0.001")
    monkeypatch.setenv("BNRECAL_MODEL_RETENTION_SECONDS", "0.001")
    assert admin("purge", "--expired")["recalibrations"] == [name]
    assert uploads == [201]
    assert len(list((settings.data_dir / "models").rglob("model.onnx"))) == 1
    assert admin("check")["faults"] == []


def test_purge_of_unknown_id_deletes_nothing(api: Api, admin: Admin) -> None:
    name = kept(api)
    assert admin("purge", "--id", name, "--id", "rc_none")["code"] == "not-found"
    assert api.get(name).status_code == 200
    assert admin("purge", "--id", name, "--id", name)["recalibrations"] == [name]


def test_purge_of_open_recalibration_is_rejected(start_server: StartServer, admin: Admin) -> None:
    name = start_server().open()
    refused = admin("purge", "--id", name)
    assert (refused["status"], refused["code"]) == (2, "transition-refused")
    assert admin("purge", "--id", "rc_none")["code"] == "not-found"
    assert admin("list")["recalibrations"][0]["id"] == name


def test_purge_uses_retention_settings(
    api: Api, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = kept(api)
    monkeypatch.setenv("BNRECAL_ENDED_RETENTION_SECONDS", "0.001")
    assert admin("purge", "--expired")["recalibrations"] == [name]


def test_purge_uses_settings_file(
    api: Api, admin: Admin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = kept(api)
    (tmp_path / "bnrecal.toml").write_text("ended_retention_seconds = 0.001\n")
    monkeypatch.setenv("BNRECAL_CONFIG", str(tmp_path / "bnrecal.toml"))
    assert admin("purge", "--expired")["recalibrations"] == [name]


def test_backup_gives_same_results(
    api: Api, admin: Admin, tmp_path: Path, start_server: StartServer, settings: Settings
) -> None:
    name, open_one = kept(api), api.open()
    assert api.put(open_one, 0).status_code == 201
    target = tmp_path / "copy"
    assert admin("backup", target)["files"] == len(blobs(settings))
    copy = start_server(data_dir=target)
    for path in ("/model", "/statistics", "/report", "/batches", ""):
        assert copy.get(name, path).content == api.get(name, path).content
    assert copy.put(open_one, 0).status_code == 200
    assert copy.put(open_one, 1).status_code == 201
    assert copy.start(open_one, 2).status_code == 202
    assert copy.wait(open_one)["state"] == "succeeded"
    assert admin("backup", target)["status"] == 2  # the target exists


def test_files_are_private_to_the_owner(
    start_server: StartServer, admin: Admin, settings: Settings, tmp_path: Path
) -> None:
    for folder in (settings.data_dir, tmp_path / "copy"):
        folder.mkdir(mode=0o755)
        folder.chmod(0o755)
    (settings.data_dir / "ledger.sqlite3").touch(mode=0o644)
    kept(start_server())
    assert admin("backup", tmp_path / "copy")["status"] == 0
    ledgers = list(settings.data_dir.glob("ledger.sqlite3*"))
    assert len(ledgers) >= 2
    below = list((tmp_path / "copy").iterdir())
    assert len(below) == 3
    for path in ledgers + below:
        assert path.stat().st_mode & 0o077 == 0, path


def test_backup_under_load_is_consistent(
    api: Api, admin: Admin, tmp_path: Path, executor: FakeExecutor
) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            api.finished(batches=3)  # its data is removed after its end

    thread = threading.Thread(target=work)
    thread.start()
    try:
        found = [admin("backup", tmp_path / str(number)) for number in range(5)]
    finally:
        stop.set()
        thread.join()
    assert [one["status"] for one in found] == [0] * 5
    for number in range(5):
        assert main(["--data-dir", str(tmp_path / str(number)), "check"]) == 0
    assert executor.runs > 0


def test_backup_of_damaged_folder_fails(
    api: Api, admin: Admin, tmp_path: Path, settings: Settings
) -> None:
    kept(api)
    _flip_bit(blobs(settings)[0])
    assert admin("backup", tmp_path / "copy")["code"] == "storage-failed"


def test_missing_folder_is_rejected(tmp_path: Path) -> None:
    assert main(["--data-dir", str(tmp_path / "none"), "list"]) == 2
    assert not (tmp_path / "none").exists()


def test_newer_ledger_is_rejected(
    settings: Settings, admin: Admin, start_server: StartServer
) -> None:
    start_server()
    connection = apsw.Connection(str(settings.data_dir / "ledger.sqlite3"))
    connection.set_busy_timeout(10_000)  # the server may still be writing
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    assert admin("list")["code"] == StartError.code


@pytest.mark.parametrize("running", [False, True])
def test_damaged_ledger_is_not_modified(settings: Settings, admin: Admin, *, running: bool) -> None:
    settings.data_dir.mkdir(mode=0o700)
    path = settings.data_dir / "ledger.sqlite3"
    path.write_bytes(b"not a database " * 100)
    with locked(settings.data_dir) if running else nullcontext():
        found = admin("list")
    assert (found["status"], found["code"]) == (2, StartError.code)
    assert "ledger.sqlite3 cannot be used (NotADBError)" in found["error"]
    assert path.read_bytes() == b"not a database " * 100


def test_no_ledger_is_created(settings: Settings, admin: Admin) -> None:
    with locked(settings.data_dir):
        assert admin("list")["code"] == StartError.code
    assert not (settings.data_dir / "ledger.sqlite3").exists()
