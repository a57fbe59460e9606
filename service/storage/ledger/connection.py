"""Connections to SQLite that are safe for a ledger, and the transaction that work sees."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import apsw

from service.errors import ServiceError, StartError, StorageFailedError, StorageFullError
from service.storage.ledger.protocol import Partner, Row, Value

_log = logging.getLogger(__name__)
# 3.7.0 to 3.51.2 can corrupt a WAL database when a reset of the log meets a checkpoint; 3.51.3 has
# the fix.
OLDEST_SQLITE = (3, 51, 3)
# Each commit waits for the disk. With NORMAL the last ones before a power cut are lost, which the
# test of power cuts must notice.
SYNCHRONOUS = "FULL"
# Readers never wait for the writer in WAL mode; this covers the short exclusive moments of opening
# and recovery.
BUSY_MILLISECONDS = 10_000


def refuse_old_sqlite(version: str) -> None:
    """Refuse a SQLite inside the range of the WAL-reset bug.

    Raises:
        StartError: the version is older than 3.51.3.
    """
    if tuple(int(part) for part in version.split(".")[:3]) < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        raise StartError(
            f"SQLite {version} can corrupt a WAL database; the ledger needs {wanted} or later"
        )


def connect(path: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open the ledger's file: WAL, each commit on the disk before it returns, foreign keys held.

    Args:
        path: the file.
        vfs: name of SQLite's layer below it; None for its own.
    """
    refuse_old_sqlite(apsw.sqlite_lib_version())
    make_private(path)
    connection = apsw.Connection(str(path), vfs=vfs)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def make_private(path: Path) -> None:
    """Make a file that only its owner reads; SQLite gives its own the rights of the umask.

    The folder may be one that others can enter. The WAL gets the rights of the ledger's file. A
    file that is there is not opened: closing it would drop the locks of this process's connections.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        with contextlib.suppress(OSError):  # it is somebody else's
            path.chmod(0o600)
    except OSError:
        return  # SQLite tells better what is wrong when it opens the file


def _prepare(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    (mode,) = next(connection.execute("PRAGMA journal_mode = WAL"))
    if mode != "wal":
        raise StartError(
            f"the ledger's file system allows journal mode {mode!r} only, WAL is needed"
        )
    connection.execute(f"PRAGMA synchronous = {SYNCHRONOUS}; PRAGMA foreign_keys = ON")


def schema_version(connection: apsw.Connection) -> int:
    """Return the version of a ledger's tables; 0 when it has none."""
    found = connection.execute("PRAGMA user_version").get
    return found if isinstance(found, int) else 0


def close(connection: apsw.Connection) -> None:
    """Close a connection; a disk that fails at the last moment is only told to the log.

    The last one to close moves what was committed from the WAL into the database. Where that fails
    the WAL stays, and the next start reads it: nothing is lost.
    """
    try:
        connection.close()
    except apsw.Error as error:
        _log.warning(
            "The ledger was not closed in good order: %s",
            type(error).__name__,
            extra={"action": "ledger-close-failed"},
        )


class SqliteTransaction:
    """`Transaction` on an apsw connection.

    Attributes:
        joined: whether a partner has joined.
    """

    def __init__(
        self, connection: apsw.Connection, partners: dict[Partner, None] | None = None
    ) -> None:
        """Work on a connection inside a transaction that somebody else begins and ends.

        Args:
            connection: where it is.
            partners: gathers who joins; None where nobody may.
        """
        self._connection = connection
        self._partners = partners
        self.joined = False

    def rows(self, query: str, **parameters: Value) -> list[Row]:
        """Run a query and return its rows, each by column name."""
        cursor = self._connection.cursor()
        cursor.row_trace = _by_name
        return list(cursor.execute(query, parameters))

    def row(self, query: str, **parameters: Value) -> Row | None:
        """Run a query and return its first row."""
        found = self.rows(query, **parameters)
        return found[0] if found else None

    def change(self, query: str, **parameters: Value) -> int:
        """Run a change and return how many rows it touched."""
        self._connection.execute(query, parameters)
        return self._connection.changes()

    def join(self, partner: Partner) -> None:
        """Let what a partner stores belong to this transaction."""
        assert self._partners is not None
        self._partners[partner] = None
        self.joined = True


def _by_name(cursor: apsw.Cursor, row: apsw.SQLiteValues) -> Row:
    names = (column[0] for column in cursor.get_description())
    return dict(zip(names, row, strict=True))


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn SQLite's errors into this package's, once."""
    try:
        yield
    except apsw.FullError as error:
        raise StorageFullError("the disk of the ledger is full; nothing was stored") from error
    except apsw.Error as error:
        raise StorageFailedError(f"the ledger failed: {type(error).__name__}") from error


@contextlib.contextmanager
def opening(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into the refusal of whoever cannot begin without a ledger."""
    try:
        yield
    except apsw.Error as error:
        raise StartError(
            f"the ledger {path} cannot be used ({type(error).__name__}); is its disk well?"
        ) from error


def poisons(error: ServiceError) -> bool:
    """Tell whether the writer must stop: after a failed fsync nobody knows what is stored."""
    return isinstance(error, StorageFailedError)
