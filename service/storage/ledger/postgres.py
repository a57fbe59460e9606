"""`Ledger` on a PostgreSQL database.

One thread commits queued work in groups, as for SQLite. All changes of all processes are made one
transaction after the other: each takes the same advisory lock first. So work that reads and then
writes needs no other protection against other processes, and no transaction is ever retried for a
conflict. Reads run beside that, each on one snapshot.

A connection that is lost is opened again by the next work. Until that succeeds, work fails with
`LedgerUnavailableError`; nothing needs a restart. When the connection is lost during a commit, it
is unknown whether the changes are durable, so nothing that they refer to may be removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from decimal import Decimal
from functools import cache
from typing import Any

import psycopg
from psycopg.rows import dict_row

from service.errors import LedgerUnavailableError, ServiceError, StartError, StorageFailedError
from service.storage.capacity import ledger_full
from service.storage.ledger import postgres_schema as schema
from service.storage.ledger.protocol import Participant, Row, T, Transaction, Value
from service.storage.ledger.writer import Outcome, Writer

Connection = psycopg.Connection[dict[str, Any]]

# Reads wait for the network, so there are more threads than for SQLite.
READER_THREADS = 4
# Seconds until an unreachable host is given up.
CONNECT_SECONDS = 5
# A connection on which nothing arrives for this long is given up, in milliseconds. Otherwise a
# write could hang for many minutes when the network drops packets.
USER_TIMEOUT_MILLISECONDS = 15_000
# Keys of the advisory locks: the first number is "bnre" in ASCII.
_SPACE = 0x626E7265
_WRITER, _LEADER, _MIGRATION = range(3)
CHANNEL = "bnrecal"

_PARAMETER = re.compile(r"(?<!:):([a-z_][a-z0-9_]*)")


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
        """Run work and return its result once its changes are durable."""
        result: T = await asyncio.wrap_future(self._writer.submit(work))
        return result

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work on a consistent view of durable data."""
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
            _close(connection)
        self._writer.close()
        if self._leader is not None:
            _close(self._leader)

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
            _close(connection)

    def _leads(self) -> bool:
        with self._leading:
            try:
                if self._leader is None:
                    self._leader = connect(self._url)
                # The lock is counted, so it is taken only by a connection that does not have it.
                return _holds(self._leader, _LEADER) or _try_lock(self._leader, _LEADER)
            except psycopg.Error:
                if self._leader is not None:
                    _close(self._leader)
                self._leader = None
                return False


class PostgresTransaction:
    """`Transaction` on a connection.

    Attributes:
        enlisted: whether a participant was enlisted.
    """

    def __init__(
        self,
        connection: Connection,
        participants: dict[Participant, None] | None = None,
        *,
        pipeline: psycopg.Pipeline | None = None,
    ) -> None:
        """Use a connection inside a transaction that the caller begins and ends.

        Args:
            connection: the connection.
            participants: collects participants; None where enlisting is not allowed.
            pipeline: the connection's pipeline, in which statements are sent before the results of
                earlier ones have arrived; None without.
        """
        self._connection = connection
        self._participants = participants
        self._pipeline = pipeline
        self._fetched: dict[object, psycopg.Cursor[dict[str, Any]]] = {}
        self.enlisted = False

    def rows(self, query: str, **parameters: Value) -> list[Row]:
        """Run a query and return its rows, each by column name."""
        cursor = self._fetched.pop(_call(query, parameters), None)
        if cursor is None:
            cursor = self._connection.execute(_text(query), parameters)
        found = cursor.fetchall()
        return [{name: _value(value) for name, value in row.items()} for row in found]

    def row(self, query: str, **parameters: Value) -> Row | None:
        """Run a query and return its first row, or None."""
        found = self.rows(query, **parameters)
        return found[0] if found else None

    def change(self, query: str, **parameters: Value) -> int:
        """Run a change and return the number of affected rows."""
        self._fetched.clear()
        cursor = self._connection.execute(_text(query), parameters)
        if self._pipeline is not None:
            self._pipeline.sync()
        return cursor.rowcount

    def submit(self, query: str, **parameters: Value) -> None:
        """Send a change; in a pipeline, its error is raised later."""
        self._fetched.clear()
        self._connection.execute(_text(query), parameters)

    def prefetch(self, query: str, **parameters: Value) -> None:
        """Send a query without waiting for its rows; has no effect without a pipeline."""
        if self._pipeline is not None:
            cursor = self._connection.execute(_text(query), parameters)
            self._fetched[_call(query, parameters)] = cursor

    def clock(self) -> float:
        """Return the time of the database server."""
        row = self._connection.execute(
            "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"
        ).fetchone()
        assert row is not None
        return float(row["now"])

    def notify(self, topic: str) -> None:
        """Report a change of a topic to all processes, once it is durable."""
        self._connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, topic))

    def enlist(self, participant: Participant) -> None:
        """Flush a participant before the commit, or roll it back if that fails."""
        assert self._participants is not None
        self._participants[participant] = None
        self.enlisted = True


class PostgresWriter:
    """`WriterDatabase` that connects again after a connection was lost.

    Each transaction is a pipeline: statements whose results are not needed at once wait for no
    round trip of their own.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._context: AbstractContextManager[psycopg.Pipeline] | None = None
        self._pipeline: psycopg.Pipeline | None = None

    def begin(self) -> None:
        """Begin a transaction; waits for those of other writers.

        The connection may have been lost since the last commit: then it is opened again.
        """
        if self._connection is not None:
            try:
                self._begin(self._connection)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                self.rollback()
            else:
                return
        self._connection = connect(self._url)
        try:
            self._begin(self._connection)
        except BaseException:
            self.rollback()
            raise

    def _begin(self, connection: Connection) -> None:
        connection.execute(f"BEGIN; SELECT pg_advisory_xact_lock({_SPACE}, {_WRITER})")
        self._context = connection.pipeline()
        self._pipeline = self._context.__enter__()

    def attempt(
        self, work: Callable[[Transaction], Any], participants: dict[Participant, None]
    ) -> Outcome:
        """Run work in a savepoint."""
        assert self._connection is not None
        assert self._pipeline is not None
        self._connection.execute("SAVEPOINT job")
        tx = PostgresTransaction(self._connection, participants, pipeline=self._pipeline)
        try:
            result = work(tx)
            self._connection.execute("RELEASE SAVEPOINT job")
            self._pipeline.sync()  # raises the errors of submitted changes
        except (psycopg.OperationalError, psycopg.InterfaceError):
            raise  # affects the whole transaction, not only this work
        except Exception as error:  # noqa: BLE001 - delivered to the caller unchanged
            self._undo()
            return Outcome(raised=error)
        return Outcome(result=result, enlisted=tx.enlisted)

    def _undo(self) -> None:
        """Roll back to the savepoint, also after a statement has failed."""
        assert self._connection is not None
        assert self._pipeline is not None
        # Reports the failed statement again, and those that were sent after it and not run.
        with contextlib.suppress(psycopg.errors.PipelineAborted):
            self._pipeline.sync()
        self._connection.execute("ROLLBACK TO SAVEPOINT job")
        self._connection.execute("RELEASE SAVEPOINT job")
        self._pipeline.sync()

    def commit(self) -> None:
        """Commit; waits for the disk of the database and of its synchronous standby."""
        assert self._connection is not None
        assert self._context is not None
        self._connection.execute("COMMIT")
        self._context.__exit__(None, None, None)  # waits for the result
        self._context = self._pipeline = None

    def rollback(self) -> None:
        """Roll back by closing the connection: it may be broken."""
        if self._connection is not None:
            _close(self._connection)
            self._connection = None
        if self._context is not None:
            with contextlib.suppress(psycopg.Error):  # the connection is closed
                self._context.__exit__(None, None, None)
        self._context = self._pipeline = None

    def translated(self) -> AbstractContextManager[None]:
        """Return `translated`."""
        return translated()

    def is_fatal(self, error: ServiceError) -> bool:
        """Return False: the database recovers by itself, and knows what is durable."""
        del error
        return False

    def close(self) -> None:
        """Close the connection."""
        self.rollback()


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


def connect(url: str) -> Connection:
    """Open a connection without a transaction.

    Raises:
        psycopg.OperationalError: no server can be reached.
    """
    connection: Connection = psycopg.connect(
        url,
        autocommit=True,
        row_factory=dict_row,
        application_name="bnrecal",
        connect_timeout=CONNECT_SECONDS,
        tcp_user_timeout=USER_TIMEOUT_MILLISECONDS,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
    )
    return connection


def migrate(url: str) -> str:
    """Create or migrate the tables; return the version of the server.

    Raises:
        StartError: the database cannot be reached or used, or its schema is too new.
    """
    try:
        with connect(url) as connection, connection.transaction():
            _lock(connection, _MIGRATION)
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


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Translate errors of PostgreSQL to those of this package.

    Raises:
        StorageFullError: the disk of the database is full.
        LedgerUnavailableError: the database cannot be reached, or the connection was lost.
        StorageFailedError: any other error.
    """
    try:
        yield
    except psycopg.errors.DiskFull as error:
        raise ledger_full() from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise LedgerUnavailableError(
            "the database of the ledger cannot be reached; nothing was acknowledged"
        ) from error
    except psycopg.Error as error:
        raise StorageFailedError(f"the ledger failed: {type(error).__name__}") from error


def read_once(url: str, work: Callable[[Transaction], T]) -> T:
    """Run work on a consistent view, on a connection of its own."""
    with translated(), connect(url) as connection:
        return _read(connection, work)


def write_once(url: str, work: Callable[[Transaction], T]) -> T:
    """Run work as one change, on a connection of its own; an exception rolls it back."""
    with translated(), connect(url) as connection, connection.transaction():
        connection.execute(f"SELECT pg_advisory_xact_lock({_SPACE}, {_WRITER})")
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
    connection.execute("SELECT pg_advisory_xact_lock(%s, %s)", (_SPACE, key))


def _try_lock(connection: Connection, key: int) -> bool:
    row = connection.execute(
        "SELECT pg_try_advisory_lock(%s, %s) AS held", (_SPACE, key)
    ).fetchone()
    return row is not None and bool(row["held"])


def _holds(connection: Connection, key: int) -> bool:
    row = connection.execute(
        "SELECT count(*) AS found FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND pid = pg_backend_pid() AND classid::bigint = %s AND objid::bigint = %s",
        (_SPACE, key),
    ).fetchone()
    return row is not None and row["found"] > 0


def _close(connection: Connection) -> None:
    with contextlib.suppress(psycopg.Error):
        connection.close()


def _cause(error: psycopg.Error) -> str:
    """Return the first line of an error; it never holds the password."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _value(value: Any) -> Value:
    """Return a column's value; sums are decimals in PostgreSQL."""
    found: Value = int(value) if isinstance(value, Decimal) else value
    return found


def _call(query: str, parameters: Mapping[str, Value]) -> object:
    return query, tuple(sorted(parameters.items()))


@cache
def _text(query: str) -> bytes:
    """Return a query with the parameters of psycopg.

    As bytes: the types of psycopg accept only literal strings, to prevent values in the text.
    """
    return _PARAMETER.sub(r"%(\1)s", query.replace("%", "%%")).encode()
