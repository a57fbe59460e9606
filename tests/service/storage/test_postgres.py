"""The PostgreSQL ledger when its server fails, and what several processes notice of each other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from service.admin.command import main
from service.app import create_app
from service.errors import LedgerUnavailableError, StartError
from service.settings import Settings
from service.storage.ledger import postgres_schema
from service.storage.ledger.maintenance import open_ledger
from service.storage.ledger.postgres import PostgresLedger, _durability_warnings
from service.storage.ledger.postgres_connection import connect
from service.storage.ledger.protocol import Transaction
from service.workers.protocol import Job, OnProgress, Outcome, Progress
from tests.support.postgres import Cluster, cluster
from tests.support.service_fakes import FakeExecutor
from tests.support.service_http import Api
from tests.support.service_loop import serving
from tests.support.waiting import until

INSERT = "INSERT INTO model (id, bytes, description, created) VALUES (:id, 1, '{}', 'now')"
KILLS = 3
CLIENTS = 8


@pytest.fixture(scope="module")
def own() -> Iterator[Cluster]:
    """A server that the tests of this module may kill."""
    with cluster(fsync="off", wal_writer_delay="10s") as found:
        yield found


def lost_in_crashes(own: Cluster, url: str) -> tuple[int, int]:
    """Kill the server under load; return how many acknowledged rows were lost, of how many."""
    ledger = PostgresLedger(url)
    numbers = itertools.count()
    acknowledged: set[str] = set()
    refused = 0
    over = threading.Event()

    async def client() -> None:
        nonlocal refused
        while not over.is_set():
            name = str(next(numbers))
            try:
                await ledger.write(lambda tx: tx.change(INSERT, id=name))  # noqa: B023 - awaited
                acknowledged.add(name)
            except LedgerUnavailableError:
                refused += 1
                await asyncio.sleep(0.05)

    def chaos() -> None:
        for _ in range(KILLS):
            before = len(acknowledged)
            until(lambda: len(acknowledged) > before + 30, lambda: "no progress")  # noqa: B023
            own.kill()
            own.start(wal_writer_delay="10s", fsync="off")
        before = len(acknowledged)
        until(lambda: len(acknowledged) > before, lambda: "the ledger does not recover")
        over.set()

    async def work() -> set[str]:
        killing = asyncio.create_task(asyncio.to_thread(chaos))
        await asyncio.gather(killing, *(client() for _ in range(CLIENTS)))
        rows = await ledger.read(lambda tx: tx.rows("SELECT id FROM model"))
        return {str(row["id"]) for row in rows}

    try:
        stored = asyncio.run(work())
    finally:
        over.set()
        ledger.close()
    assert refused > 0
    assert ledger.failure is None
    return len(acknowledged - stored), len(acknowledged)


def test_crashes_lose_nothing(own: Cluster) -> None:
    lost, acknowledged = lost_in_crashes(own, own.create())
    assert (lost, acknowledged > 90) == (0, True)


def test_asynchronous_commits_lose_rows(own: Cluster) -> None:
    """The test above can fail: it detects a database that acknowledges too early."""
    url = own.create()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    assert lost_in_crashes(own, url)[0] > 0


def test_requests_fail_until_the_database_is_back(own: Cluster, settings: Settings) -> None:
    shared = settings.model_copy(update={"ledger": own.create()})
    with serving(create_app(shared, executor=FakeExecutor())) as http:
        api = Api(http)
        name = api.open()
        assert api.put(name, 0).status_code == 201
        own.stop("immediate")
        for answer in (api.put(name, 1), api.get(name), api.start(name, 1)):
            assert (answer.status_code, answer.json()["code"]) == (503, "ledger-unavailable")
            assert answer.headers["Retry-After"]
        ready = http.get("/readyz")
        assert ready.status_code == 503
        assert "cannot be reached" in ready.json()["failures"][0]
        own.start(fsync="off")
        until(lambda: api.put(name, 1).is_success, lambda: "the server does not recover")
        assert http.get("/readyz").status_code == 200
        assert api.start(name, 2).status_code == 202
        assert api.wait(name)["state"] == "succeeded"


def test_run_survives_a_restart_of_the_database(own: Cluster, settings: Settings) -> None:
    quick = {"lease_seconds": 1.0, "poll_seconds": 0.1, "run_retry_seconds": 0.1}
    shared = settings.model_copy(update={"ledger": own.create(), **quick})
    held = FakeExecutor()
    held.hold = True
    app = create_app(shared, executor=held)
    with serving(app) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
        api.start(name, 1)
        until(lambda: held.runs == 1, lambda: "the run has not started")
        own.stop("immediate")
        time.sleep(1.5)  # the lease is over
        own.start(fsync="off")
        assert api.wait(name, "running")["attempts"] <= 2
        assert http.post(f"/v1/recalibrations/{name}/cancel").status_code == 202
        # A run that was writing when the database stopped has ended.
        until(lambda: not app.state.dispatcher.running, lambda: "the run continues")


class WaitingExecutor(FakeExecutor):
    """Its runs compute their result, and wait before they report it."""

    def __init__(self) -> None:
        super().__init__()
        self.computed, self.going = threading.Event(), threading.Event()

    async def run(self, job: Job, on_progress: OnProgress) -> Outcome:
        outcome = await super().run(job, on_progress)
        self.computed.set()
        await asyncio.to_thread(self.going.wait, 60)
        await on_progress(Progress(phase="writing", done=0, total=None))
        return outcome


def test_run_that_ends_without_its_database_is_recorded_later(
    own: Cluster, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    shared = settings.model_copy(update={"ledger": own.create(), "poll_seconds": 0.1})
    waiting = WaitingExecutor()
    with serving(create_app(shared, executor=waiting)) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
        api.start(name, 1)
        until(waiting.computed.is_set, lambda: "the run has not started")
        own.stop("immediate")
        waiting.going.set()
        until(lambda: "run-waits-for-ledger" in actions(caplog), lambda: "the run does not wait")
        own.start(fsync="off")
        found = api.wait(name)
        assert (found["state"], found["attempts"], waiting.runs) == ("succeeded", 1, 1)
        assert api.get(name, "/model").status_code == 200
    assert not {"run-error", "run-deferred", "run-interrupted"} & actions(caplog)


def actions(caplog: pytest.LogCaptureFixture) -> set[str]:
    """Return the kinds of events that were logged."""
    return {getattr(record, "action", "") for record in caplog.records}


def test_start_without_a_database_ends_with_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "service", "--port", "0", "--data-dir", str(tmp_path / "data")]
    nowhere = {"BNRECAL_LEDGER": "postgresql://u:secret@127.0.0.1:1/none"}
    done = subprocess.run(
        words, env={**os.environ, **nowhere}, capture_output=True, text=True, check=False
    )
    *logs, line = done.stderr.splitlines()
    assert line.startswith("bnrecal does not start: the database of the ledger cannot be used")
    assert {json.loads(one)["level"] for one in logs} == {"info"}
    assert "secret" not in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


def test_server_does_not_start_without_its_database(settings: Settings) -> None:
    nowhere = settings.model_copy(update={"ledger": "postgresql://u:secret@127.0.0.1:1/none"})
    with (
        pytest.raises(StartError, match="database of the ledger") as raised,
        serving(create_app(nowhere, executor=FakeExecutor())),
    ):
        pass
    assert "secret" not in str(raised.value)


def test_newer_schema_is_rejected(own: Cluster) -> None:
    url = own.create()
    PostgresLedger(url).close()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE schema_version SET version = %s", (postgres_schema.VERSION + 1,))
    with pytest.raises(StartError, match="newer"):
        PostgresLedger(url)


def test_admin_requires_the_current_schema(own: Cluster, settings: Settings) -> None:
    url = own.create()
    with open_ledger(settings.data_dir, url) as ledger:  # creates the tables
        ledger.write(lambda tx: tx.change(INSERT, id="a"))
        assert ledger.read(lambda tx: len(tx.rows("SELECT id FROM model"))) == 1
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE schema_version SET version = %s", (postgres_schema.VERSION - 1,))
    found = f"schema version {postgres_schema.VERSION - 1}"
    with pytest.raises(StartError, match=found), open_ledger(settings.data_dir, url):
        pass


def test_admin_commands_use_the_database(
    own: Cluster,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    shared = settings.model_copy(update={"ledger": own.create()})
    monkeypatch.setenv("BNRECAL_LEDGER", shared.ledger)

    def admin(*words: str) -> tuple[int, dict[str, Any]]:
        status = main(["--data-dir", str(shared.data_dir), "--json", *words])
        return status, json.loads(capsys.readouterr().out.splitlines()[-1])

    with serving(create_app(shared, executor=FakeExecutor())) as http:
        name = Api(http).finished()
        assert admin("list")[1]["recalibrations"][0]["id"] == name
        assert admin("check")[0] == 0
        (shared.data_dir / "recalibrations" / name / "results" / "1" / "report.json").unlink()
        status, found = admin("check", "--recheck-seconds", "0")
        assert (status, len(found["faults"])) == (1, 1)
        assert admin("purge", "--id", name)[0] == 0
        assert Api(http).get(name).status_code == 404
        status, found = admin("backup", str(tmp_path / "copy"))
        assert status == 2
        assert "pg_dump" in found["error"]


def test_two_servers_migrate_one_empty_database(own: Cluster) -> None:
    url = own.create()
    with ExitStack() as stack:
        made: list[PostgresLedger] = []
        threads = [
            threading.Thread(target=lambda: made.append(PostgresLedger(url))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in made:
            stack.callback(one.close)
        assert len(made) == 4
        for one in made:
            assert asyncio.run(one.read(lambda tx: tx.rows("SELECT id FROM model"))) == []


def test_state_wakes_a_waiter_in_another_process(own: Cluster, settings: Settings) -> None:
    slow = settings.model_copy(update={"ledger": own.create(), "poll_seconds": 600.0})
    idle = slow.model_copy(update={"max_concurrent_runs": 0})
    executor = FakeExecutor()
    executor.hold = True
    with (
        serving(create_app(slow, executor=executor)) as first,
        serving(create_app(idle, executor=FakeExecutor())) as second,
    ):
        api = Api(first)
        name = api.open()
        api.put(name, 0)
        api.start(name, 1)
        until(lambda: executor.runs == 1, lambda: "the run has not started")
        threading.Timer(0.5, first.post, (f"/v1/recalibrations/{name}/cancel",)).start()
        began = time.monotonic()
        # Without a notification, the waiter reads the ledger after 15 seconds.
        assert second.get(f"/v1/recalibrations/{name}?wait=20").json()["state"] == "cancelled"
        assert time.monotonic() - began < 10


def test_queued_run_wakes_another_process(own: Cluster, settings: Settings) -> None:
    slow = settings.model_copy(update={"ledger": own.create(), "poll_seconds": 600.0})
    idle = slow.model_copy(update={"max_concurrent_runs": 0})
    with (
        serving(create_app(idle, executor=FakeExecutor())) as first,
        serving(create_app(slow, executor=FakeExecutor())),
    ):
        assert Api(first).get(Api(first).finished(1)).json()["state"] == "succeeded"


def test_weak_durability_is_reported(own: Cluster, settings: Settings) -> None:
    url = own.create()
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    shared = settings.model_copy(update={"ledger": url})
    with serving(create_app(shared, executor=FakeExecutor())) as http:
        warnings = http.get("/readyz").json()["warnings"]
    assert [one.partition(":")[0] for one in warnings] == [
        "synchronous_commit is off",
        "fsync is off",
    ]


def test_synchronous_standby_gives_no_warning() -> None:
    with (
        cluster(synchronous_standby_names="*", fsync="on") as safe,
        connect(safe.url("postgres")) as connection,
    ):
        assert _durability_warnings(connection) == []


@pytest.mark.parametrize("packed_bytes", [0, 1 << 20], ids=["file", "packed"])
def test_repeated_batch_waits_for_the_standby(settings: Settings, packed_bytes: int) -> None:
    """A row that the standby lacks is visible, but not acknowledged."""
    settings = settings.model_copy(update={"packed_batch_bytes": packed_bytes})
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with ExitStack() as stack:
        primary = stack.enter_context(cluster(fsync="off", wal_retrieve_retry_interval="100"))
        standby = stack.enter_context(primary.standby())
        shared = settings.model_copy(update={"ledger": primary.create()})
        api = Api(stack.enter_context(serving(create_app(shared, executor=FakeExecutor()))))
        name = api.open()
        own = stack.enter_context(psycopg.connect(shared.ledger, autocommit=True))
        statuses: list[int] = []

        def put() -> threading.Thread:
            """Send the batch, and return when its commit waits for the standby or has ended."""
            sender = threading.Thread(target=lambda: statuses.append(api.put(name, 0).status_code))
            sender.start()
            until(lambda: own.execute(waiting).fetchall() or not sender.is_alive())
            return sender

        primary.synchronous("*")
        standby.stop("immediate")
        sender = put()
        for (process,) in own.execute(waiting).fetchall():
            own.execute("SELECT pg_terminate_backend(%s)", (process,))
        sender.join(60)
        assert statuses == [503]
        assert own.execute("SELECT count(*) FROM batch").fetchone() == (1,)
        sender = put()
        assert statuses == [503]
        standby.start_again()
        sender.join(60)
        assert statuses == [503, 200]


@pytest.mark.parametrize("last", ["nothing", "read", "change"])
def test_failed_submitted_change_fails_only_its_work(own: Cluster, last: str) -> None:
    def fail(tx: Transaction) -> None:
        tx.submit(INSERT, id="doubled")
        tx.submit(INSERT, id="doubled")
        tx.submit(INSERT, id="never")
        if last == "read":
            tx.rows("SELECT id FROM model")
        elif last == "change":
            tx.change(INSERT, id="never too")

    async def work(ledger: PostgresLedger) -> list[object]:
        done = [ledger.write(lambda tx: tx.change(INSERT, id="before")), ledger.write(fail)]
        done.append(ledger.write(lambda tx: tx.change(INSERT, id="after")))
        found: list[object] = await asyncio.gather(*done, return_exceptions=True)
        return found

    ledger = PostgresLedger(own.create())
    found = asyncio.run(work(ledger))
    assert [type(one).__name__ for one in found] == ["int", "UniqueViolation", "int"]
    rows = asyncio.run(ledger.read(lambda tx: tx.rows("SELECT id FROM model ORDER BY id")))
    assert [row["id"] for row in rows] == ["after", "before"]
    ledger.close()


class Proxy:
    """Forwards connections to a server and counts the round trips of the one that writes."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._turns: dict[int, list[str]] = {}
        self._writer = -1
        threading.Thread(target=self._accept, daemon=True).start()

    def round_trips(self) -> int:
        """Return how often the client has sent something after the server had answered."""
        turns = self._turns[self._writer]
        return sum(pair == ("server", "client") for pair in itertools.pairwise(turns))

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            for number in itertools.count():
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._turns[number] = []
                for ends, side in (((client, server), "client"), ((server, client), "server")):
                    arguments = (*ends, side, number)
                    threading.Thread(target=self._forward, args=arguments, daemon=True).start()

    def _forward(
        self, source: socket.socket, target: socket.socket, side: str, number: int
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self._turns[number].append(side)
                if b"INSERT INTO batch" in data:
                    self._writer = number
                target.sendall(data)
        source.close()
        target.close()


def test_new_batch_needs_few_round_trips(own: Cluster, settings: Settings) -> None:
    url = own.create()
    proxy = Proxy(own.port)
    shared = settings.model_copy(update={"ledger": url.replace(str(own.port), str(proxy.port))})
    with serving(create_app(shared, executor=FakeExecutor())) as http:
        api = Api(http)
        name = api.open()
        api.put(name, 0)
        before = proxy.round_trips()
        for index in range(1, 11):
            assert api.put(name, index).status_code == 201
        found = proxy.round_trips() - before
    proxy.close()
    # Each of the ten is a group of its own: begin, read, write and commit. A statement that the
    # server answers in parts may count twice.
    assert 40 <= found < 50


def test_parameters_beside_casts_and_percent_signs(own: Cluster) -> None:
    def work(tx: Transaction) -> object:
        return tx.rows("SELECT CAST(:a1 AS TEXT) AS a, '5 %' AS b, 1::bigint AS c", a1="x")

    ledger = PostgresLedger(own.create())
    assert asyncio.run(ledger.read(work)) == [{"a": "x", "b": "5 %", "c": 1}]
    ledger.close()
