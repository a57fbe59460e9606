"""Conformance of ledgers; each implementation is a fixture parameter."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from service.errors import NotFoundError, StartError, StorageFailedError, StorageFullError
from service.repositories import recalibrations
from service.storage.data_folder import file_system_type
from service.storage.ledger import schema
from service.storage.ledger.connection import SqliteWriter, check_sqlite_version, connect
from service.storage.ledger.postgres import PostgresLedger
from service.storage.ledger.protocol import EnlistingTransaction, Ledger, Participant, Transaction
from service.storage.ledger.sqlite import SqliteLedger
from service.storage.ledger.writer import Writer
from tests.support.waiting import until

OPEN: dict[str, Callable[[Path, str], Ledger]] = {
    "sqlite": lambda folder, _: SqliteLedger(folder / "ledger.sqlite3"),
    "postgres": lambda _, url: PostgresLedger(url),
}
INSERT = "INSERT INTO model (id, bytes, description, created) VALUES (:id, 1, '{}', 'now')"
DUPLICATE = {"sqlite": "ConstraintError", "postgres": "UniqueViolation"}
COUNT = "SELECT count(*) AS models FROM model"


@pytest.fixture(params=OPEN)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def reopen(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Callable[[], Ledger]:
    url = request.getfixturevalue("postgres").create() if kind == "postgres" else ""
    return lambda: OPEN[kind](tmp_path, url)


@pytest.fixture
def ledger(reopen: Callable[[], Ledger]) -> Iterator[Ledger]:
    found = reopen()
    yield found
    found.close()


def insert(name: str) -> Callable[[Transaction], int]:
    return lambda tx: tx.change(INSERT, id=name)


def count(tx: Transaction) -> Any:
    row = tx.row(COUNT)
    assert row is not None
    return row["models"]


def test_rows_survive_reopening(reopen: Callable[[], Ledger]) -> None:
    async def first(ledger: Ledger) -> None:
        assert await ledger.write(insert("a")) == 1
        assert await ledger.read(count) == 1

    ledger = reopen()
    asyncio.run(first(ledger))
    ledger.close()
    ledger = reopen()
    assert asyncio.run(ledger.read(count)) == 1
    ledger.close()


def test_failed_transaction_undoes_only_its_changes(ledger: Ledger, kind: str) -> None:
    def fail(tx: Transaction) -> None:
        tx.change(INSERT, id="failed")
        raise NotFoundError("no")

    async def work() -> list[object]:
        jobs = [insert("a"), fail, insert("b"), insert("a"), insert("c")]
        return await asyncio.gather(*map(ledger.write, jobs), return_exceptions=True)

    answers = asyncio.run(work())
    assert [type(one).__name__ for one in answers] == [
        "int",
        "NotFoundError",
        "int",
        DUPLICATE[kind],
        "int",
    ]
    assert asyncio.run(ledger.read(count)) == 3
    assert ledger.failure is None


def test_reads_cannot_write(ledger: Ledger) -> None:
    with pytest.raises(StorageFailedError):
        asyncio.run(ledger.read(insert("a")))
    assert asyncio.run(ledger.read(count)) == 0


def test_read_sees_a_snapshot(ledger: Ledger) -> None:
    async def work() -> tuple[Any, Any]:
        loop = asyncio.get_running_loop()

        def look(tx: Transaction) -> tuple[Any, Any]:
            before = count(tx)
            asyncio.run_coroutine_threadsafe(ledger.write(insert("late")), loop).result(10)
            return before, count(tx)

        return await ledger.read(look)

    assert asyncio.run(work()) == (0, 0)
    assert asyncio.run(ledger.read(count)) == 1


def test_one_process_leads(reopen: Callable[[], Ledger]) -> None:
    first, second = reopen(), reopen()
    assert asyncio.run(first.leads())
    assert asyncio.run(first.leads())
    assert not asyncio.run(second.leads())
    first.close()
    # PostgreSQL releases the lock when it notices that the connection is closed.
    until(lambda: asyncio.run(second.leads()))
    second.close()


def test_clock_of_all_processes(reopen: Callable[[], Ledger]) -> None:
    first, second = reopen(), reopen()
    times = [asyncio.run(one.read(lambda tx: tx.clock())) for one in (first, second, first)]
    assert times == sorted(times)
    assert abs(times[0] - time.time()) < 60
    first.close()
    second.close()


def test_writers_of_two_processes_exclude_each_other(reopen: Callable[[], Ledger]) -> None:
    """Work that reads and then writes needs no other protection."""
    ledgers = reopen(), reopen()

    def append(tx: Transaction) -> None:
        tx.change(INSERT, id=str(count(tx)))

    async def work() -> None:
        await asyncio.gather(*(one.write(append) for one in ledgers * 50))

    asyncio.run(work())
    assert asyncio.run(ledgers[0].read(count)) == 100
    for one in ledgers:
        one.close()


class Store:
    """A partner that records its calls."""

    def __init__(self, look: Callable[[], int], *, failing: bool = False) -> None:
        self._look = look
        self._failing = failing
        self.happened: list[str] = []

    def flush(self) -> None:
        self.happened.append(f"flush with {self._look()} rows")
        if self._failing:
            raise StorageFailedError("the participant's disk fails")

    def rollback(self) -> None:
        self.happened.append("rollback")


@pytest.fixture
def look(ledger: Ledger) -> Callable[[], int]:
    return lambda: asyncio.run(ledger.read(count))


def enlist(tx: Transaction, participant: Participant) -> None:
    assert isinstance(tx, EnlistingTransaction)
    tx.enlist(participant)


def enlisting(participant: Store, name: str) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        enlist(tx, participant)
        tx.change(INSERT, id=name)
        enlist(tx, participant)

    return work


def test_participant_is_flushed_once_before_commit(ledger: Ledger, look: Callable[[], int]) -> None:
    store = Store(look)

    async def both() -> None:
        await ledger.write(enlisting(store, "a"))
        await ledger.write(enlisting(store, "b"))

    asyncio.run(both())
    # Each time, the rows that refer to its content were not yet visible.
    assert store.happened == ["flush with 0 rows", "flush with 1 rows"]


def test_failed_flush_fails_only_its_transaction(
    ledger: Ledger, look: Callable[[], int], kind: str
) -> None:
    store = Store(look, failing=True)
    begun, hold = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        begun.set()
        assert hold.wait(10)  # makes all others share the next commit
        tx.change(INSERT, id="first")

    async def work() -> list[object]:
        first = asyncio.ensure_future(ledger.write(slow))
        assert await asyncio.to_thread(begun.wait, 10)
        jobs = [insert("a"), enlisting(store, "joined"), insert("b"), insert("a")]
        others = [asyncio.ensure_future(ledger.write(job)) for job in jobs]
        await asyncio.sleep(0)
        hold.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    answers = [type(one).__name__ for one in asyncio.run(work())]
    assert answers == ["NoneType", "int", "StorageFailedError", "int", DUPLICATE[kind]]
    assert store.happened == ["flush with 1 rows", "rollback"]
    assert look() == 3
    assert ledger.failure is None


def test_participant_of_failed_transaction_is_rolled_back(
    ledger: Ledger, look: Callable[[], int]
) -> None:
    store = Store(look, failing=True)

    def fail(tx: Transaction) -> None:
        enlist(tx, store)
        raise NotFoundError("no")

    with pytest.raises(NotFoundError):
        asyncio.run(ledger.write(fail))
    assert store.happened == ["rollback"]


FULL = {"sqlite": apsw.FullError("full"), "postgres": psycopg.errors.DiskFull("full")}


def test_participant_rolls_back_with_transaction(
    ledger: Ledger, look: Callable[[], int], kind: str
) -> None:
    store = Store(look)

    def full(tx: Transaction) -> None:
        enlist(tx, store)
        tx.change(INSERT, id="a")
        raise FULL[kind]

    with pytest.raises(StorageFullError):
        asyncio.run(ledger.write(full))
    assert store.happened == ["rollback"]
    assert look() == 0


def test_many_writers_share_commits(tmp_path: Path) -> None:
    commits: list[float] = []
    ledger = SqliteLedger(tmp_path / "ledger.sqlite3", on_commit=commits.append)

    async def work() -> None:
        await asyncio.gather(*(ledger.write(insert(str(number))) for number in range(300)))

    asyncio.run(work())
    ledger.close()
    assert 1 <= len(commits) < 100


class BrokenConnection:
    """A connection whose commit fails as with a faulty disk."""

    def __init__(self, inner: apsw.Connection, error: Exception) -> None:
        self._inner = inner
        self._error: Exception | None = error

    def execute(self, query: str, *rest: Any) -> Any:
        if query == "COMMIT" and self._error is not None:
            raise self._error
        return self._inner.execute(query, *rest)

    def repair(self) -> None:
        self._error = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def broken(tmp_path: Path, error: Exception) -> tuple[Writer, BrokenConnection]:
    SqliteLedger(tmp_path / "ledger.sqlite3").close()
    connection = BrokenConnection(connect(tmp_path / "ledger.sqlite3"), error)
    return Writer(SqliteWriter(connection), on_commit=lambda _: None), connection  # type: ignore[arg-type]


def test_failed_fsync_stops_the_writer(tmp_path: Path) -> None:
    writer, connection = broken(tmp_path, apsw.IOError("fsync"))
    with pytest.raises(StorageFailedError):
        writer.submit(insert("a")).result(10)
    connection.repair()
    # The writer does not trust the disk even if it works again.
    with pytest.raises(StorageFailedError, match="restart"):
        writer.submit(insert("b")).result(10)
    assert writer.failure is not None
    writer.close()
    ledger = SqliteLedger(tmp_path / "ledger.sqlite3")
    assert asyncio.run(ledger.read(count)) == 0
    ledger.close()


def test_full_disk_fails_only_the_transaction(tmp_path: Path) -> None:
    writer, connection = broken(tmp_path, apsw.FullError("full"))
    with pytest.raises(StorageFullError):
        writer.submit(insert("a")).result(10)
    connection.repair()
    assert writer.submit(insert("b")).result(10) == 1
    writer.close()


def test_durability_settings(tmp_path: Path) -> None:
    SqliteLedger(tmp_path / "ledger.sqlite3").close()
    connection = connect(tmp_path / "ledger.sqlite3")
    assert connection.execute("PRAGMA synchronous").get == 2
    assert connection.execute("PRAGMA journal_mode").get == "wal"
    assert connection.execute("PRAGMA foreign_keys").get == 1
    connection.close()


@pytest.mark.parametrize("version", ["3.40.1", "3.51.2", "3.7.0"])
def test_sqlite_with_wal_bug_is_rejected(version: str) -> None:
    with pytest.raises(StartError, match=r"3\.51\.3"):
        check_sqlite_version(version)
    check_sqlite_version("3.51.3")
    check_sqlite_version("4.0.0")


def test_newer_schema_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite3"
    SqliteLedger(path).close()
    connection = connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    with pytest.raises(StartError, match="newer"):
        SqliteLedger(path)


def test_file_system_type_from_mounts(tmp_path: Path) -> None:
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/a rw",
        f"2 1 0:9 / {tmp_path} rw shared:1 - nfs4 host:/x rw",
        "3 1 0:9 / /elsewhere rw - cifs //host/x rw",
    ]
    assert file_system_type(tmp_path / "data", lines) == "nfs4"
    assert file_system_type(Path("/usr"), lines) == "ext4"
    assert file_system_type(tmp_path, [*lines, lines[1].replace("nfs4", "xfs")]) == "xfs"


def test_network_file_system_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"2 1 0:9 / {tmp_path} rw - nfs4 host:/x rw\n")
    monkeypatch.setattr("service.storage.data_folder.MOUNTS", mounts)
    with pytest.raises(StartError, match="nfs4"):
        SqliteLedger(tmp_path / "ledger.sqlite3")


def test_fetch_returns_the_rows_of_each_set(ledger: Ledger) -> None:
    query = "SELECT id, bytes FROM model WHERE id = :id OR bytes = :bytes ORDER BY id"

    def work(tx: Transaction) -> list[list[list[object]]]:
        for name in ("a", "b"):
            tx.submit(INSERT, id=name)
        sets = [("b", 0), ("none", 0), ("a", 1), ("b", 0)]
        found = [
            tx.fetch(query, [{"id": name, "bytes": size} for name, size in sets]),
            tx.fetch(query, []),
            tx.fetch("SELECT id FROM model ORDER BY id", [{}, {}]),
            tx.fetch("SELECT max(bytes) AS id FROM model WHERE id > :id", [{"id": "b"}]),
        ]
        return [[[row["id"] for row in rows] for rows in one()] for one in found]

    assert asyncio.run(ledger.write(work)) == [
        [["b"], [], ["a", "b"], ["b"]],
        [],
        [["a", "b"], ["a", "b"]],
        [[None]],
    ]


def test_insert_all_inserts_a_row_for_each_set(ledger: Ledger) -> None:
    query = """
        INSERT INTO idempotency (scope, key, request_sha256, response, created)
        VALUES (:scope, :key, 'sha', :response, :now)
        ON CONFLICT (scope, key) DO UPDATE SET response = excluded.response
    """
    sets = [
        {"scope": "POST /100%", "key": key, "response": response, "now": ""}
        for key, response in (("a", "1"), ("b", 'ä\n{,"}'))
    ]

    def work(tx: Transaction) -> list[tuple[object, object]]:
        tx.insert_all(query, [])
        tx.insert_all(query, sets)
        tx.insert_all(query, [{**sets[0], "response": "3"}])
        rows = tx.rows("SELECT key, response FROM idempotency WHERE scope LIKE '%0%' ORDER BY key")
        return [(row["key"], row["response"]) for row in rows]

    assert asyncio.run(ledger.write(work)) == [("a", "3"), ("b", 'ä\n{,"}')]


def test_insert_all_inserts_nulls(ledger: Ledger) -> None:
    query = """
        INSERT INTO result (recalibration, name, bytes, sha256, claim)
        VALUES (:id, :name, :bytes, '', :claim)
    """

    def work(tx: Transaction) -> list[object]:
        recalibrations.insert(
            tx,
            recalibration_id="r",
            owner="",
            model="m",
            inputs="[]",
            options="{}",
            keep_data=False,
        )
        for claims in ((None, None), (None, 7)):
            tx.insert_all(
                query,
                [
                    {"id": "r", "name": f"{claims}{n}", "bytes": n, "claim": claim}
                    for n, claim in enumerate(claims)
                ],
            )
        return [row["claim"] for row in tx.rows("SELECT claim FROM result ORDER BY name")]

    assert asyncio.run(ledger.write(work)) == [None, 7, None, None]


def test_items_of_the_same_work_share_a_call(ledger: Ledger) -> None:
    calls = []

    def work(tx: Transaction, items: Sequence[str]) -> list[int | NotFoundError]:
        calls.append(list(items))
        found: list[int | NotFoundError] = []
        for item in items:
            wanted = item != "refused"
            found.append(tx.change(INSERT, id=item) if wanted else NotFoundError(item))
        return found

    def fail(tx: Transaction, items: Sequence[str]) -> list[int]:
        tx.change(INSERT, id="failed")
        raise NotFoundError(f"{len(items)} items")

    entered, going = threading.Event(), threading.Event()

    def wait(_: Transaction) -> None:
        entered.set()
        going.wait(10)

    async def run() -> list[object]:
        held = asyncio.create_task(ledger.write(wait))
        await asyncio.to_thread(entered.wait, 10)
        waiting = [
            ledger.write_together(work, "a"),
            ledger.write_together(fail, "x"),
            ledger.write(insert("b")),
            ledger.write_together(work, "refused"),
            ledger.write_together(fail, "y"),
            ledger.write_together(work, "c"),
        ]
        tasks = [asyncio.ensure_future(one) for one in waiting]
        await asyncio.sleep(0.05)
        going.set()
        await held
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(run())
    assert calls == [["a", "refused", "c"]]
    assert [repr(one) for one in found] == [
        "1",
        "NotFoundError('2 items')",
        "1",
        "NotFoundError('refused')",
        "NotFoundError('2 items')",
        "1",
    ]
    assert found[1] is not found[4]  # each has a traceback of its own
    assert asyncio.run(ledger.read(count)) == 3


def test_item_that_is_cancelled_is_not_stored(ledger: Ledger) -> None:
    entered, going = threading.Event(), threading.Event()

    def wait(_: Transaction) -> None:
        entered.set()
        going.wait(10)

    def work(tx: Transaction, items: Sequence[str]) -> list[int]:
        return [tx.change(INSERT, id=item) for item in items]

    async def run() -> int:
        held = asyncio.create_task(ledger.write(wait))
        await asyncio.to_thread(entered.wait, 10)
        tasks = [asyncio.create_task(ledger.write_together(work, name)) for name in "ab"]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        await asyncio.sleep(0)
        going.set()
        await held
        return await tasks[1]

    assert asyncio.run(run()) == 1
    rows = asyncio.run(ledger.read(lambda tx: tx.rows("SELECT id FROM model")))
    assert [row["id"] for row in rows] == ["b"]
