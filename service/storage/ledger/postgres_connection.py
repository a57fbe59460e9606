"""Connections to a PostgreSQL ledger, and transactions on them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Any

import psycopg
from psycopg.rows import dict_row

from service.errors import LedgerUnavailableError, ServiceError, StorageFailedError
from service.storage.capacity import ledger_full
from service.storage.ledger.postgres_sql import SET_NUMBER, insertion, selection
from service.storage.ledger.postgres_sql import text as _text
from service.storage.ledger.protocol import (
    Fetched,
    Parameters,
    Participant,
    Row,
    Transaction,
    Value,
)
from service.storage.ledger.writer import Outcome

Connection = psycopg.Connection[dict[str, Any]]

# Seconds until an unreachable host is given up.
CONNECT_SECONDS = 5
# A connection on which nothing arrives for this long is given up, in milliseconds. Otherwise a
# write could hang for many minutes when the network drops packets.
USER_TIMEOUT_MILLISECONDS = 15_000
# Keys of the advisory locks: the first number is "bnre" in ASCII.
LOCKS = 0x626E7265
WRITER_LOCK, LEADER_LOCK, MIGRATION_LOCK = range(3)
CHANNEL = "bnrecal"


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


def close(connection: Connection) -> None:
    """Close a connection, which may be broken."""
    with contextlib.suppress(psycopg.Error):
        connection.close()


class PostgresTransaction:
    """`Transaction` on a connection.

    Attributes:
        enlisted: whether a participant was enlisted.
        inserted: whether rows were inserted by `insert_all`.
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
        self.enlisted = False
        self.inserted = False

    def rows(self, query: str, **parameters: Value) -> list[Row]:
        """Run a query and return its rows, each by column name."""
        return [_row(row) for row in self._connection.execute(_text(query), parameters).fetchall()]

    def row(self, query: str, **parameters: Value) -> Row | None:
        """Run a query and return its first row, or None."""
        found = self.rows(query, **parameters)
        return found[0] if found else None

    def change(self, query: str, **parameters: Value) -> int:
        """Run a change and return the number of affected rows."""
        cursor = self._connection.execute(_text(query), parameters)
        if self._pipeline is not None:
            self._pipeline.sync()
        return cursor.rowcount

    def submit(self, query: str, **parameters: Value) -> None:
        """Send a change; in a pipeline, its error is raised later."""
        self._connection.execute(_text(query), parameters)

    def insert_all(self, query: str, sets: Sequence[Parameters]) -> None:
        """Insert the rows of all sets of parameters with one statement."""
        if sets:
            self._connection.execute(*insertion(query, sets))
            self.inserted = True

    def fetch(self, query: str, sets: Sequence[Parameters]) -> Fetched:
        """Send one statement for all sets; in a pipeline, its rows are awaited later."""
        if not sets:
            return list
        if not sets[0]:  # no parameters: the same rows for all
            cursor = self._connection.execute(_text(query))
            return lambda: [[_row(row) for row in cursor.fetchall()]] * len(sets)
        cursor = self._connection.execute(*selection(query, sets))
        return lambda: _by_set(cursor.fetchall(), len(sets))

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
        self._inserted = False

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
        connection.execute(f"BEGIN; SELECT pg_advisory_xact_lock({LOCKS}, {WRITER_LOCK})")
        self._context = connection.pipeline()
        self._pipeline = self._context.__enter__()
        self._inserted = False

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
        self._inserted = self._inserted or tx.inserted
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
        """Commit; waits for the disk of the database and of its synchronous standby.

        A commit whose connection was lost while it waited for the standby is visible, although the
        standby may lack it. A transaction that only reads would not wait for it, so each that has
        inserted nothing writes a record to the log, after those of what it has read. See the
        chapters on synchronous replication and on `pg_logical_emit_message` of PostgreSQL's
        documentation.
        """
        assert self._connection is not None
        assert self._context is not None
        if not self._inserted:
            self._connection.execute("SELECT pg_logical_emit_message(true, 'bnrecal', '')")
        self._connection.execute("COMMIT")
        self._context.__exit__(None, None, None)  # waits for the result
        self._context = self._pipeline = None

    def rollback(self) -> None:
        """Roll back by closing the connection: it may be broken."""
        if self._connection is not None:
            close(self._connection)
            self._connection = None
        if self._context is not None:
            with contextlib.suppress(psycopg.Error):  # the connection is closed
                self._context.__exit__(None, None, None)
        self._context = self._pipeline = None

    def translated(self) -> AbstractContextManager[None]:
        """Return `translated`."""
        return translated()

    def is_fatal(self, error: ServiceError) -> bool:
        """Return False: the database recovers on its own and knows what is durable."""
        del error
        return False

    def close(self) -> None:
        """Close the connection."""
        self.rollback()


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


def _row(row: Mapping[str, Any]) -> Row:
    """Return a row by column name; sums are decimals in PostgreSQL."""
    return {
        name: int(value) if isinstance(value, Decimal) else value for name, value in row.items()
    }


def _by_set(rows: Sequence[dict[str, Any]], sets: int) -> list[list[Row]]:
    """Return the rows of each set of parameters."""
    found: list[list[Row]] = [[] for _ in range(sets)]
    for row in rows:
        found[row.pop(SET_NUMBER) - 1].append(_row(row))
    return found
