from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.errors import LedgerUnavailableError, StartError, StorageFailedError, StorageFullError
from service.recalibrations import events as changes
from service.recalibrations import recovery, runs
from service.repositories import recalibrations as store
from service.repositories.lifecycle import Event, State
from service.repositories.records import Recalibration
from service.settings import Settings
from service.storage.data_folder import locked
from service.storage.ledger import schema
from service.storage.ledger.connection import connect
from service.storage.ledger.postgres import PostgresLedger
from service.storage.ledger.protocol import Transaction
from service.storage.ledger.sqlite import SqliteLedger
from service.workers.protocol import Progress
from tests.support import stored_files
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, OpenLedger, batch, safetensors
from tests.support.service_loop import call_once, serving
from tests.support.waiting import until


def test_restart_keeps_acknowledged_batches(settings: Settings) -> None:
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        name = api.open()
        stored = [api.put(name, index).json() for index in range(3)]
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        assert api.get(name, "/batches").json()["items"] == stored
        assert api.put(name, 1).status_code == 200
        assert api.start(name, 3).status_code == 202
        assert api.wait(name)["state"] == "succeeded"


def test_restart_keeps_keys_and_events(settings: Settings) -> None:
    key = {"Idempotency-Key": "one"}
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        asked = {"model": api.upload_model().json()["id"]}
        first = http.post("/v1/recalibrations", json=asked, headers=key)
        name = first.json()["id"]
        content = safetensors(x=batch())
        appended = api.append(name, content, **key)
        api.start(name, 1)
        api.wait(name)
        events = api.get(name, "/events").text
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        again = http.post("/v1/recalibrations", json=asked, headers=key)
        assert (again.status_code, again.content) == (201, first.content)
        assert api.append(name, content, **key).content == appended.content
        other = http.post("/v1/recalibrations", json={**asked, "method": "batch"}, headers=key)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
        assert api.get(name, "/events").text == events
        rest = api.get(name, "/events", **{"Last-Event-ID": "3"}).text
        assert events.endswith(rest)
        assert rest.startswith("event: state\n")


def test_graceful_shutdown_counts_no_attempt(
    settings: Settings,
) -> None:
    held = FakeExecutor()
    held.hold = True
    with serving(create_app(settings, executor=held)) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
        api.start(name, 1)
        until(lambda: held.runs == 1, lambda: "the run has not started")
    assert held.killed == 1
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        found = Api(http).wait(name)
    assert (found["state"], found["attempts"]) == ("succeeded", 1)


def crash_while_running(opened: OpenLedger, name: str, *, lease: float = -1) -> None:
    """Leave the ledger in the state of a server that was killed during a run."""
    ledger = opened()
    try:
        found = call_once(ledger.read(lambda tx: store.get(tx, name)))
        if found.state == "open":
            call_once(ledger.write(lambda tx: store.seal(tx, name, total=1, source_total=0)))
            call_once(ledger.write(lambda tx: changes.advance(tx, name, Event.START)))
            call_once(ledger.write(lambda tx: changes.advance(tx, name, Event.ADMIT)))
        call_once(ledger.write(lambda tx: changes.advance(tx, name, Event.BEGIN)))
        call_once(ledger.write(lambda tx: store.claim(tx, name, runner="r", lease_seconds=lease)))
    finally:
        ledger.close()


def test_crash_requeues_the_run(settings: Settings, open_ledger: OpenLedger) -> None:
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
    crash_while_running(open_ledger, name)
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        found = Api(http).wait(name)
    assert (found["state"], found["attempts"]) == ("succeeded", 2)


def test_run_fails_after_too_many_attempts(settings: Settings, open_ledger: OpenLedger) -> None:
    few = settings.model_copy(update={"max_attempts": 1})
    with serving(create_app(few, executor=FakeExecutor())) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
    crash_while_running(open_ledger, name)
    with serving(create_app(few, executor=FakeExecutor())) as http:
        found = Api(http).get(name).json()
        figures = http.get("/metrics").text
    assert found["state"] == "failed"
    assert 'bnrecal_failures_total{code="worker-died"} 1.0\n' in figures
    assert found["error"]["code"] == "worker-died"
    assert found["error"]["attempts"] == 1


def test_startup_removes_orphaned_files(settings: Settings) -> None:
    orphans = [
        settings.data_dir / "staging" / "half",
        settings.data_dir / "models" / ("0" * 64) / "model.onnx",
        settings.data_dir / "recalibrations" / "rc_gone" / "batches" / "0.safetensors",
    ]
    for orphan in orphans:
        orphan.parent.mkdir(parents=True, exist_ok=True)
        orphan.write_bytes(b"x")
    # The file of an upload is stored before its row.
    recent = settings.data_dir / "models" / "recent" / "model.onnx"
    recent.parent.mkdir()
    recent.touch()
    os.utime(orphans[1].parent, (0, 0))
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        kept = api.open()
        api.put(kept, 0)
        _until_gone(orphans)
        assert api.get(kept).status_code == 200
        assert api.http.get("/v1/models").json()["items"] != []
        assert recent.exists()


def test_expired_recalibration_is_deleted(settings: Settings) -> None:
    short = settings.model_copy(
        update={
            "ended_retention_seconds": 0.05,
            "open_retention_seconds": 0.05,
            "cleanup_interval_seconds": 0.05,
        }
    )
    with serving(create_app(short, executor=FakeExecutor())) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
        _until_removed(settings, f"recalibrations/{name}/")
        assert api.get(name).status_code == 404


def test_unused_model_expires(settings: Settings) -> None:
    short = settings.model_copy(
        update={"model_retention_seconds": 0.2, "cleanup_interval_seconds": 0.05}
    )
    with serving(create_app(short, executor=FakeExecutor())) as http:
        api = Api(http)
        used = api.get(api.finished()).json()["model"]
        unused = api.upload_model(b"another model").json()["id"]
        _until_removed(settings, f"models/{unused}-")
        assert api.http.get(f"/v1/models/{unused}").status_code == 404
        assert api.http.get(f"/v1/models/{used}").status_code == 200
        assert api.upload_model(b"another model").status_code == 201


def test_upload_renews_a_model(settings: Settings) -> None:
    short = settings.model_copy(
        update={"model_retention_seconds": 1.0, "cleanup_interval_seconds": 0.05}
    )
    with serving(create_app(short, executor=FakeExecutor())) as http:
        api = Api(http)
        assert api.upload_model().status_code == 201
        began = last = time.monotonic()
        while (now := time.monotonic()) < began + 1.5:
            # After a pause of the whole machine it may have expired, correctly.
            assert api.upload_model().status_code == 200 or time.monotonic() - last > 0.5
            last = now
            time.sleep(0.02)


def test_run_of_another_process_is_left_until_its_lease_is_over(
    settings: Settings, open_ledger: OpenLedger
) -> None:
    patient = settings.model_copy(update={"poll_seconds": 0.05})
    with serving(create_app(patient, executor=FakeExecutor())) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
    began = time.monotonic()
    crash_while_running(open_ledger, name, lease=1.0)
    with serving(create_app(patient, executor=FakeExecutor())) as http:
        assert Api(http).get(name).json()["state"] == "running" or time.monotonic() - began > 0.9
        found = Api(http).wait(name)
    assert (found["state"], found["attempts"]) == ("succeeded", 2)
    assert time.monotonic() - began > 0.9


def test_restart_takes_over_what_a_shutdown_could_not_release(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tx: Transaction, runner: str) -> None:
        raise StorageFailedError(f"{tx} {runner}")

    held = FakeExecutor()
    held.hold = True
    patient = settings.model_copy(update={"lease_seconds": 600.0})
    with serving(create_app(patient, executor=held)) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
        api.start(name, 1)
        until(lambda: held.runs == 1, lambda: "the run has not started")
        monkeypatch.setattr(recovery, "release", fail)
    with serving(create_app(patient, executor=FakeExecutor())) as http:
        assert Api(http).wait(name)["state"] == "succeeded"


def test_writes_of_a_lost_claim_change_nothing(settings: Settings, open_ledger: OpenLedger) -> None:
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
    crash_while_running(open_ledger, name)
    crash = RuntimeError("crash")

    def lost_writes(tx: Transaction) -> Recalibration:
        found = store.get(tx, name)
        recovery.requeue_abandoned(tx, settings)
        store.claim(tx, name, runner="other", lease_seconds=60)
        before = changes.advance(tx, name, Event.BEGIN)
        changes.progress(tx, name, found.claims, Progress(phase="reading", done=1, total=1))
        recovery.on_worker_crash(tx, name, found.claims, crash, settings)
        recovery.defer(tx, name, found.claims, StorageFullError("full"), settings)
        recovery.release(tx, "r")
        store.renew(tx, name, found.claims, lease_seconds=-60)
        assert store.abandoned(tx) == []
        assert not runs._finish(tx, found, [], None)
        runs._fail(tx, found, {})
        assert store.get(tx, name) == before
        # The current claim does change it.
        assert runs._finish(tx, before, [], None)
        return store.get(tx, name)

    ledger = open_ledger()
    assert call_once(ledger.write(lost_writes)).state is State.SUCCEEDED
    ledger.close()


def test_folder_used_exclusively_is_rejected(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.storage.data_folder.START_SECONDS", 0)
    with (
        locked(settings.data_dir),
        pytest.raises(StartError, match="another process"),
        serving(create_app(settings, executor=FakeExecutor())),
    ):
        pass


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_shared_ledger_of_another_version_is_not_migrated(settings: Settings) -> None:
    with serving(create_app(settings, executor=FakeExecutor())):
        path = settings.data_dir / "ledger.sqlite3"
        connection = connect(path)
        connection.execute(f"PRAGMA user_version = {schema.VERSION - 1}")
        connection.close()
        with (
            pytest.raises(StartError, match="schema version"),
            serving(create_app(settings, executor=FakeExecutor())),
        ):
            pass


def _until_removed(settings: Settings, folder: str) -> None:
    until(
        lambda: not stored_files.sizes(settings, folder),
        lambda: stored_files.sizes(settings, folder),
    )


def _until_gone(paths: list[Path]) -> None:
    until(
        lambda: not any(path.exists() for path in paths),
        lambda: [path for path in paths if path.exists()],
    )


def test_success_whose_commit_was_not_confirmed_is_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost after the commit: the run is recorded again, and keeps its results."""
    kind = PostgresLedger if settings.ledger else SqliteLedger
    write = kind.write
    lost: list[str] = []

    async def unconfirmed(ledger: Any, work: Callable[[Transaction], object]) -> object:
        result = await write(ledger, work)
        rows = await ledger.read(lambda tx: tx.rows("SELECT id, state FROM recalibration"))
        if not lost and any(row["state"] == State.SUCCEEDED for row in rows):
            lost.append(str(rows[0]["id"]))
            raise LedgerUnavailableError("the connection was lost")
        return result

    monkeypatch.setattr(kind, "write", unconfirmed)
    executor = FakeExecutor()
    quick = settings.model_copy(update={"poll_seconds": 0.05})
    app = create_app(quick, executor=executor)
    with serving(app) as http:
        api = Api(http)
        name = api.finished()
        until(lambda: not app.state.dispatcher.running, lambda: "the run continues")
        assert lost == [name]
        assert (api.get(name).json()["attempts"], executor.runs) == (1, 1)
        assert api.get(name, "/model").status_code == 200
