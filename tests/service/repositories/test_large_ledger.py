"""The cost of requests and of startup does not grow with the number of stored batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.admin.command import main
from service.app import create_app
from service.context import Context
from service.recalibrations import recovery, retention
from service.recalibrations.operations import _check_streams
from service.repositories import batches, idempotency
from service.repositories import recalibrations as store
from service.repositories.lifecycle import State
from service.repositories.records import Stream
from service.settings import Settings
from service.storage.ledger import schema
from service.storage.ledger.connection import SqliteTransaction
from service.storage.ledger.maintenance import SqliteMaintenanceLedger, open_sqlite
from service.storage.ledger.protocol import Transaction
from service.storage.ledger.sqlite import SqliteLedger
from tests.support import large_ledger
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api, StartServer
from tests.support.service_loop import serving
from tests.support.waiting import until

FEW, MANY = 50, 50_000
TARGET = Stream.TARGET


def _page(tx: Transaction, *, after: int) -> object:
    return batches.page(tx, "r", TARGET, after=after, limit=10)


SETTINGS = Settings(data_dir=Path("unused"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Return two data folders: a recalibration of few batches, and one of many."""
    parent = tmp_path_factory.mktemp("ledgers")
    made = {size: parent / str(size) for size in (FEW, MANY)}
    for size, folder in made.items():
        large_ledger.write(folder, {"r": size})
    return made


def steps(connection: apsw.Connection, work: Callable[[], Any]) -> int:
    """Count the instructions of SQLite's virtual machine for some work."""
    taken = 0

    def count() -> bool:
        nonlocal taken
        taken += 1
        return False

    connection.set_progress_handler(count, 1)
    try:
        work()
    finally:
        connection.set_progress_handler(None)
    return taken


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(lambda tx, _: store.get(tx, "r"), id="status"),
        pytest.param(lambda tx, _: store.page(tx, after_seq=0, limit=100), id="list"),
        pytest.param(lambda tx, n: _page(tx, after=n - 20), id="page"),
        pytest.param(lambda tx, _: batches.next_index(tx, "r", TARGET), id="append"),
        pytest.param(lambda tx, n: _check_streams(tx, store.get(tx, "r"), n, 0), id="start"),
        pytest.param(lambda tx, _: store.total_bytes(tx), id="total size"),
        pytest.param(lambda tx, _: recovery.requeue_abandoned(tx, SETTINGS), id="recovery"),
        pytest.param(lambda tx, _: store.oldest(tx, State.QUEUED), id="next run"),
        pytest.param(lambda tx, _: store.with_data_to_remove(tx), id="cleanup"),
        pytest.param(lambda tx, _: retention.overdue(tx, SETTINGS), id="expiry"),
    ],
)
def test_cost_is_independent_of_stream_length(folders: dict[int, Path], work: Any) -> None:
    def cost(size: int) -> int:
        with open_sqlite(folders[size]) as ledger:
            tx = SqliteTransaction(ledger.connection)
            return steps(ledger.connection, lambda: work(tx, size))

    assert cost(MANY) == cost(FEW)


def test_start_of_complete_stream_reads_no_batches(
    settings: Settings, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_ledger.write(settings.data_dir, {"few": FEW, "many": MANY})
    asked: list[int] = []

    def missing(*_: object, **_named: object) -> list[int]:
        asked.append(1)
        return [7]

    monkeypatch.setattr(batches, "missing", missing)
    api = start_server()
    assert api.start("many", MANY).status_code == 202
    assert asked == []
    assert api.start("few", FEW + 1).status_code == 409
    assert asked == [1]


def test_server_is_ready_during_first_cleanup(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Context] = []

    async def cleanup(context: Context) -> None:
        begun.append(context)
        await asyncio.sleep(3600)

    monkeypatch.setattr(retention, "clean_up", cleanup)
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        assert http.get("/readyz").status_code == 200
        assert Api(http).open()
    assert len(begun) == 1


def until_gone(api: Api, name: str) -> None:
    until(lambda: api.get(name).status_code == 404)


@pytest.mark.parametrize("way", ["request", "expiry"])
def test_long_stream_is_deleted_in_steps(
    way: str, settings: Settings, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_ledger.write(settings.data_dir, {"few": 100, "many": 1234})
    removed: list[int] = []
    delete_last = batches.delete_last

    def counted(tx: Transaction, name: str, most: int) -> int:
        assert store.get(tx, name).state is State.CANCELLED
        removed.append(delete_last(tx, name, most))
        return removed[-1]

    monkeypatch.setattr(batches, "delete_last", counted)
    if way == "request":
        api = start_server(deletion_rows=100)
        for name in ("few", "many"):
            assert api.http.delete(f"/v1/recalibrations/{name}").status_code == 204
    else:
        # They have just been written, so only a tiny retention time has passed.
        api = start_server(
            open_retention_seconds=1e-6, cleanup_interval_seconds=0.05, deletion_rows=100
        )
        for name in ("few", "many"):
            until_gone(api, name)
    assert removed == [100] * 12 + [34, 0]
    for name in ("few", "many"):
        assert api.get(name).status_code == 404
    with open_sqlite(settings.data_dir) as ledger:
        assert ledger.read(lambda tx: tx.rows("SELECT * FROM batch")) == []
        assert ledger.read(store.total_bytes) == 0


@pytest.mark.parametrize("way", ["purge", "cleanup"])
def test_transactions_delete_few_rows(
    way: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_ledger.write(settings.data_dir, {"a": 100, "b": 100, "c": 234})
    with open_sqlite(settings.data_dir) as ledger:
        ledger.write(_store_many_responses)
    changed: list[int] = []
    for kind in (SqliteMaintenanceLedger, SqliteLedger):
        monkeypatch.setattr(kind, "write", counting(kind.write, changed))
    if way == "purge":
        monkeypatch.setenv("BNRECAL_OPEN_RETENTION_SECONDS", "1e-6")
        monkeypatch.setenv("BNRECAL_DELETION_ROWS", "100")
        assert main(["--data-dir", str(settings.data_dir), "purge", "--expired"]) == 0
    else:
        cleanup_until_gone(settings.model_copy(update={"deletion_rows": 100}))
    # In addition to the batches: the recalibration, its events and the total size.
    assert 100 <= max(changed) <= 105


def counting(write: Callable[..., Any], changed: list[int]) -> Callable[..., Any]:
    """Record the number of rows that each transaction changes, including cascades."""

    def counted(ledger: object, work: Callable[[SqliteTransaction], Any]) -> Any:
        def noted(tx: SqliteTransaction) -> Any:
            before = tx._connection.total_changes()
            found = work(tx)
            changed.append(tx._connection.total_changes() - before)
            return found

        return write(ledger, noted)

    return counted


def _store_many_responses(tx: Transaction) -> None:
    for number in range(250):
        idempotency.store_response(tx, scope="s", key=str(number), request="r", response="x")
    tx.change("UPDATE idempotency SET created = '2026-01-01T00:00:00.000000Z'")
    idempotency.store_response(tx, scope="s", key="young", request="r", response="x")


def cleanup_until_gone(settings: Settings) -> None:
    overdue = settings.model_copy(
        update={"open_retention_seconds": 1e-6, "cleanup_interval_seconds": 0.05}
    )
    with serving(create_app(overdue, executor=FakeExecutor())) as http:
        for name in "abc":
            until_gone(Api(http), name)
    with open_sqlite(settings.data_dir) as ledger:
        rows = ledger.read(lambda tx: tx.rows("SELECT key FROM idempotency"))
    assert [row["key"] for row in rows] == ["young"]


@given(st.sets(st.integers(0, 30)), st.integers(1, 32), st.integers(1, 5))
def test_missing_returns_first_gaps(stored: set[int], total: int, limit: int) -> None:
    connection = apsw.Connection(":memory:")
    for migration in schema.MIGRATIONS:
        connection.execute(migration)
    rows = [("r", "target", index, 1, 1, "", "npy", "") for index in stored]
    # The other stream has no gaps, and must not matter.
    rows += [("r", "source", index, 1, 1, "", "npy", "") for index in range(total)]
    connection.executemany("INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)", rows)
    found = batches.missing(SqliteTransaction(connection), "r", TARGET, total, limit=limit)
    assert found == [index for index in range(total) if index not in stored][:limit]
    connection.close()


ADDED_UP = "SELECT coalesce(sum(bytes), 0) FROM recalibration WHERE data_removed = 0"


def test_stored_total_matches_the_sum(api: Api, settings: Settings) -> None:
    kept, gone = api.open(keep_data=True), api.open()
    sums = []
    with open_sqlite(settings.data_dir) as ledger:

        def check() -> None:
            total = ledger.read(store.total_bytes)
            assert total == ledger.connection.execute(ADDED_UP).get
            sums.append(total)

        for name in (kept, gone):
            api.put(name, 0)
            check()
        api.start(gone, 1)
        api.wait(gone)
        ledger.write(lambda tx: store.set_data_removed(tx, gone))
        check()
        api.http.delete(f"/v1/recalibrations/{kept}")
        check()
    one = sums[0]
    assert sums == [one, 2 * one, one, 0]


def test_migration_adds_the_total(tmp_path: Path) -> None:
    large_ledger.write(tmp_path / "data", {"a": 3, "b": 4})
    path = tmp_path / "data" / "ledger.sqlite3"
    connection = apsw.Connection(str(path))
    large_ledger.downgrade(connection, 3)
    connection.close()
    with open_sqlite(tmp_path / "data") as ledger:
        assert ledger.read(store.total_bytes) == 7 * 12


def test_server_continues_with_a_folder_of_version_11(settings: Settings) -> None:
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        ended, started = api.finished(), api.open()
        assert api.put(started, 0).status_code == 201
        expected = api.get(ended, "/model").content
    large_ledger.use_old_names(settings.data_dir)
    connection = apsw.Connection(str(settings.data_dir / "ledger.sqlite3"))
    large_ledger.downgrade(connection, 11)
    connection.execute(
        "UPDATE recalibration SET state = 'running', attempts = 1, total = 1 WHERE id = ?",
        (started,),
    )
    connection.close()
    with serving(create_app(settings, executor=FakeExecutor())) as http:
        api = Api(http)
        assert api.get(ended, "/model").content == expected
        assert api.upload_model().status_code == 200
        assert (api.wait(started)["state"], api.get(started).json()["attempts"]) == ("succeeded", 2)
        assert api.get(started, "/model").status_code == 200
        found = http.get("/v1/recalibrations?order=newest&search=Check-with").json()["items"]
        assert [one["id"] for one in found] == [started, ended]
    assert main(["--data-dir", str(settings.data_dir), "check"]) == 0


def test_a_ledger_of_version_6_gets_american_spelling(tmp_path: Path) -> None:
    large_ledger.write(tmp_path / "data", {"a": 1, "b": 1, "c": 1})
    connection = apsw.Connection(str(tmp_path / "data" / "ledger.sqlite3"))
    old = {"a": {"preprocess": {"colour": "grey", "crop": 8}}, "b": {"preprocess": {"crop": 8}}}
    for name, options in old.items():
        connection.execute(
            "UPDATE recalibration SET options = ? WHERE id = ?", (json.dumps(options), name)
        )
    large_ledger.downgrade(connection, 6)
    connection.close()
    with open_sqlite(tmp_path / "data") as ledger:
        listed = ledger.read(lambda tx: [store.get(tx, name) for name in "abc"])
    found = {row.id: row.options for row in listed}
    assert found["a"] == {"preprocess": {"crop": 8, "color": "gray"}}
    assert found["b"] == old["b"]
    assert found["c"]["preprocess"] is None
