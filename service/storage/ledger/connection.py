"""SQLite connections with the settings that a ledger needs, and transactions on them."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import apsw

from service.errors import CapacityError, ServiceError, StartError, StorageFailedError
from service.storage.capacity import ledger_full
from service.storage.ledger.protocol import (
    Fetched,
    Parameters,
    Participant,
    Row,
    Transaction,
    Value,
)
from service.storage.ledger.writer import Outcome

_log = logging.getLogger(__name__)
# SQLite 3.7.0 to 3.51.2 can corrupt a WAL database when a reset of the log meets a checkpoint;
# 3.51.3 has the fix.
MIN_SQLITE = (3, 51, 3)
# Each commit waits for the disk. With NORMAL, commits shortly before a power cut are lost; the
# power-cut test must detect that.
SYNCHRONOUS = "FULL"
# In WAL mode readers do not wait for the writer. This covers the short exclusive phases of opening
# and recovery, and a writer that waits for the writers of other processes.
BUSY_MILLISECONDS = 10_000


def check_sqlite_version(version: str) -> None:
    """Check that a version of SQLite does not have the WAL-reset bug.

    Raises:
        StartError: it is older than 3.51.3.
    """
    if tuple(int(part) for part in version.split(".")[:3]) < MIN_SQLITE:
        wanted = ".".join(map(str, MIN_SQLITE))
        raise StartError(
            f"SQLite {version} can corrupt a WAL database; the ledger needs {wanted} or later"
        )


def connect(path: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open the ledger's file with WAL, synchronous commits and foreign keys.

    Args:
        path: the file.
        vfs: name of SQLite's virtual file system; None for its default.
    """
    check_sqlite_version(apsw.sqlite_lib_version())
    make_private(path)
    connection = apsw.Connection(str(path), vfs=vfs)
    try:
        _configure(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def make_private(path: Path) -> None:
    """Create a file that only its owner can read; SQLite itself uses the umask.

    Other users may be able to enter the folder. The WAL gets the mode of the ledger's file. An
    existing file is not opened: closing it would drop the locks of this process's connections.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        with contextlib.suppress(OSError):  # it belongs to another user
            path.chmod(0o600)
    except OSError:
        return  # SQLite reports the problem better when it opens the file


def _configure(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    (mode,) = next(connection.execute("PRAGMA journal_mode = WAL"))
    if mode != "wal":
        raise StartError(
            f"the ledger's file system supports only journal mode {mode!r}; WAL is required"
        )
    connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}; PRAGMA foreign_keys = ON")


def schema_version(connection: apsw.Connection) -> int:
    """Return the schema version of a ledger; 0 for an empty file."""
    found = connection.execute("PRAGMA user_version").get
    return found if isinstance(found, int) else 0


def close(connection: apsw.Connection) -> None:
    """Close a connection; an error of the disk is only logged.

    The last connection to close checkpoints the WAL into the database. If that fails, the WAL stays
    and the next start reads it, so nothing is lost.
    """
    try:
        connection.close()
    except apsw.Error as error:
        _log.warning(
            "The ledger was not closed cleanly: %s",
            type(error).__name__,
            extra={"action": "ledger-close-failed"},
        )


class SqliteTransaction:
    """`Transaction` on an apsw connection.

    Attributes:
        enlisted: whether a participant was enlisted.
    """

    def __init__(
        self, connection: apsw.Connection, participants: dict[Participant, None] | None = None
    ) -> None:
        """Use a connection inside a transaction that the caller begins and ends.

        Args:
            connection: the connection.
            participants: collects participants; None where enlisting is not allowed.
        """
        self._connection = connection
        self._participants = participants
        self.enlisted = False

    def rows(self, query: str, **parameters: Value) -> list[Row]:
        """Run a query and return its rows, each by column name."""
        cursor = self._connection.cursor()
        cursor.row_trace = _by_name
        return list(cursor.execute(query, parameters))

    def row(self, query: str, **parameters: Value) -> Row | None:
        """Run a query and return its first row, or None."""
        found = self.rows(query, **parameters)
        return found[0] if found else None

    def change(self, query: str, **parameters: Value) -> int:
        """Run a change and return the number of affected rows."""
        self._connection.execute(query, parameters)
        return self._connection.changes()

    def submit(self, query: str, **parameters: Value) -> None:
        """Run a change whose number of rows is not needed."""
        self._connection.execute(query, parameters)

    def insert_all(self, query: str, sets: Sequence[Parameters]) -> None:
        """Insert a row for each set of parameters."""
        self._connection.executemany(query, sets)

    def fetch(self, query: str, sets: Sequence[Parameters]) -> Fetched:
        """Run a query for each set of parameters at once: there are no round trips."""
        found = [self.rows(query, **parameters) for parameters in sets]
        return lambda: found

    def clock(self) -> float:
        """Return the time of this machine: no other machine can share the file."""
        return time.time()

    def notify(self, topic: str) -> None:
        """Do nothing: SQLite has no notifications."""
        del topic

    def enlist(self, participant: Participant) -> None:
        """Flush a participant before the commit, or roll it back if that fails."""
        assert self._participants is not None
        self._participants[participant] = None
        self.enlisted = True


def _by_name(cursor: apsw.Cursor, row: apsw.SQLiteValues) -> Row:
    names = (column[0] for column in cursor.get_description())
    return dict(zip(names, row, strict=True))


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Translate errors of SQLite to those of this package.

    Raises:
        StorageFullError: the disk is full.
        CapacityError: other processes kept the ledger locked.
        StorageFailedError: any other error of SQLite.
    """
    try:
        yield
    except apsw.FullError as error:
        raise ledger_full() from error
    except apsw.BusyError as error:
        raise CapacityError("other processes keep the ledger busy; nothing was stored") from error
    except apsw.Error as error:
        raise StorageFailedError(f"the ledger failed: {type(error).__name__}") from error


@contextlib.contextmanager
def opening(path: Path) -> Iterator[None]:
    """Translate errors of SQLite for a process that cannot start without the ledger.

    Raises:
        StartError: any error of SQLite.
    """
    try:
        yield
    except apsw.Error as error:
        raise StartError(
            f"the ledger {path} cannot be used ({type(error).__name__}); check its disk"
        ) from error


class SqliteWriter:
    """`WriterDatabase` on an apsw connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection

    def begin(self) -> None:
        """Begin a transaction; waits for the writers of other processes."""
        self._connection.execute("BEGIN IMMEDIATE")

    def attempt(
        self, work: Callable[[Transaction], Any], participants: dict[Participant, None]
    ) -> Outcome:
        """Run work in a savepoint."""
        self._connection.execute("SAVEPOINT job")
        tx = SqliteTransaction(self._connection, participants)
        try:
            result = work(tx)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.NotADBError):
            raise  # affects the whole transaction, not only this work
        except Exception as error:  # noqa: BLE001 - delivered to the caller unchanged
            self._connection.execute("ROLLBACK TO job; RELEASE job")
            return Outcome(raised=error)
        self._connection.execute("RELEASE job")
        return Outcome(result=result, enlisted=tx.enlisted)

    def commit(self) -> None:
        """Commit; waits for the disk."""
        self._connection.execute("COMMIT")

    def rollback(self) -> None:
        """Roll back unless SQLite has done so."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def translated(self) -> AbstractContextManager[None]:
        """Return `translated`."""
        return translated()

    def is_fatal(self, error: ServiceError) -> bool:
        """Return whether it is unknown what is durable, as after a failed fsync."""
        return isinstance(error, StorageFailedError)

    def close(self) -> None:
        """Close the connection."""
        close(self._connection)
