"""The ledger for one administrative command, also while servers are running.

Each change is one short transaction; the writers of servers wait for it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

import apsw

from service.errors import RequestInvalidError, StartError
from service.storage.data_folder import LEDGER_FILE, reject_network_file_system, try_exclusive
from service.storage.ledger import schema
from service.storage.ledger.connection import (
    SqliteTransaction,
    connect,
    make_private,
    opening,
    schema_version,
    translated,
)
from service.storage.ledger.protocol import Ledger, T, Transaction
from service.storage.ledger.sqlite import open_current, open_migrated


class MaintenanceLedger(Protocol):
    """The ledger without an event loop."""

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work on one consistent view."""
        ...

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run work as one change; an exception rolls it back."""
        ...

    def faults(self) -> list[str]:
        """Return what is wrong inside the database."""
        ...

    def copy_to(self, folder: Path, work: Callable[[Transaction], T]) -> T:
        """Copy the ledger to another data folder as one consistent view and run work on the copy.

        Args:
            folder: gets a ledger, replacing one that is there.
            work: reads the copy.

        Raises:
            RequestInvalidError: the database has tools of its own for that.
        """
        ...


class SqliteMaintenanceLedger:
    """One connection to the ledger of a data folder.

    Attributes:
        connection: the SQLite connection.
    """

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work on one consistent view."""
        return self._run("BEGIN", work, "ROLLBACK")

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run work as one change; an exception rolls it back."""
        return self._run("BEGIN IMMEDIATE", work, "COMMIT")

    def faults(self) -> list[str]:
        """Return what is wrong inside the database."""
        damaged = [
            f"SQLite: {row[0]}"
            for row in self.connection.execute("PRAGMA integrity_check")
            if row[0] != "ok"
        ]
        dangling = [
            f"SQLite: a row of {row[0]} refers to a missing row of {row[2]}"
            for row in self.connection.execute("PRAGMA foreign_key_check")
        ]
        return damaged + dangling

    def copy_to(self, folder: Path, work: Callable[[Transaction], T]) -> T:
        """Copy the ledger as one consistent view and run work on the copy."""
        path = folder / LEDGER_FILE
        path.unlink(missing_ok=True)
        make_private(path)
        copy = apsw.Connection(str(path))
        try:
            with copy.backup("main", self.connection, "main") as backup:
                backup.step()  # all pages in one step: one consistent view
            # One file instead of three; a server enables WAL again.
            copy.execute("PRAGMA journal_mode = DELETE")
            return work(SqliteTransaction(copy))
        finally:
            copy.close()

    def _run(self, begin: str, work: Callable[[Transaction], T], end: str) -> T:
        with translated():
            self.connection.execute(begin)
            try:
                result = work(SqliteTransaction(self.connection))
                self.connection.execute(end)
            finally:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
            return result


class PostgresMaintenanceLedger:
    """A PostgreSQL database, with a connection for each piece of work."""

    def __init__(self, url: str) -> None:
        self._url = url

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work on one consistent view."""
        result: T = _postgres().read_once(self._url, work)
        return result

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run work as one change; an exception rolls it back."""
        result: T = _postgres().write_once(self._url, work)
        return result

    def faults(self) -> list[str]:
        """Return nothing: the database checks itself."""
        return []

    def copy_to(self, folder: Path, work: Callable[[Transaction], T]) -> T:
        """Reject the copy.

        Raises:
            RequestInvalidError: always.
        """
        del folder, work
        raise RequestInvalidError(
            "the ledger is a PostgreSQL database: copy it with pg_dump first, and then the folders "
            "`models` and `recalibrations` of the data folder"
        )


def open_postgres(url: str, *, on_commit: Callable[[float], None]) -> Ledger:
    """Open a PostgreSQL ledger.

    Raises:
        StartError: it cannot be used, or psycopg is not installed.
    """
    ledger: Ledger = _postgres().PostgresLedger(url, on_commit=on_commit)
    return ledger


def _postgres() -> ModuleType:
    """Import the adapter, which needs an optional package.

    Raises:
        StartError: psycopg is not installed.
    """
    try:
        return importlib.import_module("service.storage.ledger.postgres")
    except ImportError as error:
        raise StartError(
            f"PostgreSQL needs the extra: pip install 'bnrecal[postgres]' ({error})"
        ) from error


@contextmanager
def open_ledger(folder: Path, url: str = "") -> Iterator[MaintenanceLedger]:
    """Open the ledger of a data folder, or the PostgreSQL database of a URL.

    The schema is migrated only if no server uses the folder; a PostgreSQL database only if it is
    empty.

    Raises:
        StartError: a server of another version is running, or the ledger cannot be used.
    """
    if url:
        _postgres().prepare(url)
        yield PostgresMaintenanceLedger(url)
        return
    with open_sqlite(folder) as ledger:
        yield ledger


@contextmanager
def open_sqlite(folder: Path) -> Iterator[SqliteMaintenanceLedger]:
    """Open the SQLite ledger of a data folder.

    Raises:
        StartError: see `open_ledger`.
    """
    reject_network_file_system(folder)
    path = folder / LEDGER_FILE
    with try_exclusive(folder) as exclusive:
        connection = open_migrated(path) if exclusive else open_current(path)
    try:
        yield SqliteMaintenanceLedger(connection)
    finally:
        connection.close()


def read_tokens_ledger(folder: Path, url: str, work: Callable[[Transaction], T]) -> T | None:
    """Run work on a ledger that has a table of tokens, without migrating its schema.

    Returns:
        The result; None when the folder has no ledger, or one from before tokens were added.

    Raises:
        StartError: the ledger cannot be read.
    """
    if url:
        _postgres().migrate(url)
        result: T = _postgres().read_once(url, work)
        return result
    path = folder / LEDGER_FILE
    if not path.exists():
        return None
    with opening(path):
        connection = connect(path)
        try:
            if schema_version(connection) < schema.WITH_TOKENS:
                return None
            return work(SqliteTransaction(connection))
        finally:
            connection.close()
