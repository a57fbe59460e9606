"""`Ledger` on a PostgreSQL database.

One thread commits queued work in groups, as for SQLite. All changes of all processes are made one
transaction after the other: each takes the same advisory lock first. So work that reads and then
writes needs no other protection against other processes, and no transaction is ever retried for a
conflict. Reads run concurrently, each on one snapshot.

A connection that is lost is opened again by the next work. Until that succeeds, work fails with
`LedgerUnavailableError`; nothing needs a restart. When the connection is lost during a commit, it
is unknown whether the changes are durable, so nothing that they refer to may be removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import psycopg

from service.errors import ServiceError, StartError
from service.storage.ledger import postgres_schema as schema
from service.storage.ledger.postgres_connection import (
    CHANNEL,
    LEADER_LOCK,
    LOCKS,
    MIGRATION_LOCK,
    WRITER_LOCK,
    Connection,
    PostgresTransaction,
    PostgresWriter,
    close,
    connect,
    translated,
)
from service.storage.ledger.protocol import Item, T, Transaction
from service.storage.ledger.writer import Writer

# Reads wait for the network, so there are more threads than for SQLite.
READER_THREADS = 4


class PostgresLedger:
    """One writer thread and a few readers, each with its own connection."""

    def __init__(
        self, url: str, *, on_commit: Callable[[float], None] = lambda _seconds: None
    ) -> None:
        """Connect and migrate the schema.

        Args:
            url: a connection URI of libpq; it may name several hosts.
            on_commit: called with the duration of each transaction in seconds.

        Raises:
            StartError: the database cannot be reached, or its schema is too new.
        """
        self._url = url
        self._version = migrate(url)
        self._writer = Writer(PostgresWriter(url), on_commit=on_commit)
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="ledger-reader")
        self._local = threading.local()
        self._open: list[Connection] = []
        self._leader: Connection | None = None
        self._leading = threading.Lock()
        self._listener: _Listener | None = None

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run work and return its result once its changes, and all that it read, are durable."""
        result: T = await asyncio.wrap_future(self._writer.submit(work))
        return result

    async def write_together(
        self, work: Callable[[Transaction, Sequence[Item]], Sequence[T | ServiceError]], item: Item
    ) -> T:
        """Run work on an item and on those that wait for the same work."""
        result: T = await asyncio.wrap_future(self._writer.submit_item(work, item))
        return result

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work on a consistent view."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def leads(self) -> bool:
        """Return whether a connection of this process holds an advisory lock."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._leads)

    def listen(self, notify: Callable[[str], None]) -> None:
        """Call a function, in another thread, with each topic that any process reports."""
        self._listener = _Listener(self._url, notify)

    async def warnings(self) -> list[str]:
        """Return which acknowledged data a failure of the database may lose."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._query, _durability_warnings)

    @property
    def version(self) -> str:
        """Name and version of the server."""
        return f"PostgreSQL {self._version}"

    @property
    def failure(self) -> str | None:
        """Why the ledger accepts no more writes; None while it works."""
        return self._writer.failure

    def close(self) -> None:
        """Finish the accepted writes and close all connections."""
        if self._listener is not None:
            self._listener.close()
        self._readers.shutdown()
        for connection in self._open:
            close(connection)
        self._writer.close()
        if self._leader is not None:
            close(self._leader)

    def _read(self, work: Callable[[Transaction], T]) -> T:
        return self._query(lambda connection: _read(connection, work))

    def _query(self, query: Callable[[Connection], T]) -> T:
        """Run a query on this thread's connection, once more if the connection was lost."""
        with translated():
            try:
                return query(self._reader())
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self._forget()
                return query(self._reader())

    def _reader(self) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = connect(self._url)
            self._local.connection = connection
            self._open.append(connection)
        return connection

    def _forget(self) -> None:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            self._open.remove(connection)
            close(connection)

    def _leads(self) -> bool:
        with self._leading:
            try:
                if self._leader is None:
                    self._leader = connect(self._url)
                # The lock is counted, so it is taken only by a connection that does not have it.
                return _holds(self._leader, LEADER_LOCK) or _try_lock(self._leader, LEADER_LOCK)
            except psycopg.Error:
                if self._leader is not None:
                    close(self._leader)
                self._leader = None
                return False


class _Listener:
    """A thread that waits for notifications on a connection of its own."""

    def __init__(self, url: str, notify: Callable[[str], None]) -> None:
        self._url = url
        self._notify = notify
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger-listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.is_set():
            # What is missed while there is no connection is found by polling.
            with contextlib.suppress(psycopg.Error), connect(self._url) as connection:
                connection.execute(f"LISTEN {CHANNEL}")
                while not self._closed.is_set():
                    for one in connection.notifies(timeout=0.5):
                        self._notify(one.payload)
            self._closed.wait(1.0)


def migrate(url: str) -> str:
    """Create or migrate the tables; return the version of the server.

    Raises:
        StartError: the database cannot be reached or used, or its schema is too new.
    """
    try:
        with connect(url) as connection, connection.transaction():
            _lock(connection, MIGRATION_LOCK)
            connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER)")
            row = connection.execute("SELECT max(version) AS found FROM schema_version").fetchone()
            found = 0 if row is None or row["found"] is None else int(row["found"])
            if found > schema.VERSION:
                raise StartError(
                    f"the ledger has schema version {found}, this server supports up to "
                    f"{schema.VERSION}: start the newer server"
                )
            for migration in schema.MIGRATIONS[found:]:
                connection.execute(migration)
            connection.execute("DELETE FROM schema_version")
            connection.execute("INSERT INTO schema_version VALUES (%s)", (schema.VERSION,))
            return _server_version(connection)
    except psycopg.Error as error:
        raise StartError(f"the database of the ledger cannot be used: {_cause(error)}") from error


def prepare(url: str) -> None:
    """Create the tables of an empty database; check that any other has the current schema.

    Raises:
        StartError: it has another schema version, or cannot be reached.
    """
    try:
        with connect(url) as connection:
            row = connection.execute("SELECT max(version) AS found FROM schema_version").fetchone()
    except psycopg.errors.UndefinedTable:
        migrate(url)
        return
    except psycopg.Error as error:
        raise StartError(f"the database of the ledger cannot be used: {_cause(error)}") from error
    found = None if row is None else row["found"]
    if found != schema.VERSION:
        raise StartError(
            f"the ledger has schema version {found}, this process supports {schema.VERSION}: "
            "use the version of its servers"
        )


def read_once(url: str, work: Callable[[Transaction], T]) -> T:
    """Run work on a consistent view, on a connection of its own."""
    with translated(), connect(url) as connection:
        return _read(connection, work)


def write_once(url: str, work: Callable[[Transaction], T]) -> T:
    """Run work as one change, on a connection of its own; an exception rolls it back."""
    with translated(), connect(url) as connection, connection.transaction():
        connection.execute(f"SELECT pg_advisory_xact_lock({LOCKS}, {WRITER_LOCK})")
        return work(PostgresTransaction(connection))


def _read(connection: Connection, work: Callable[[Transaction], T]) -> T:
    connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    try:
        return work(PostgresTransaction(connection))
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")


def _durability_warnings(connection: Connection) -> list[str]:
    row = connection.execute(
        "SELECT current_setting('synchronous_commit') AS commits,"
        " current_setting('fsync') AS fsync,"
        " current_setting('synchronous_standby_names') AS standbys"
    ).fetchone()
    assert row is not None
    found = []
    if row["commits"] == "off":
        found.append(
            "synchronous_commit is off: a crash of the database loses acknowledged batches"
        )
    elif row["commits"] == "local" or not row["standbys"]:
        found.append(
            "commits wait for no standby: a failover to another host loses acknowledged batches"
        )
    if row["fsync"] == "off":
        found.append("fsync is off: a power failure can destroy the database")
    return found


def _server_version(connection: Connection) -> str:
    row = connection.execute("SELECT current_setting('server_version') AS found").fetchone()
    assert row is not None
    return str(row["found"]).split()[0]


def _lock(connection: Connection, key: int) -> None:
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (LOCKS, key))


def _try_lock(connection: Connection, key: int) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s, %s) AS held", (LOCKS, key)).fetchone()
    return row is not None and bool(row["held"])


def _holds(connection: Connection, key: int) -> bool:
    row = connection.execute(
        "SELECT count(*) AS found FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND pid = pg_backend_pid() AND classid::bigint = %s AND objid::bigint = %s",
        (LOCKS, key),
    ).fetchone()
    return row is not None and row["found"] > 0


def _cause(error: psycopg.Error) -> str:
    """Return the first line of an error; it never holds the password."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
