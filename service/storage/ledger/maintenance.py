"""The SQLite ledger for one administrative command, also while a server is running.

SQLite's WAL allows other processes to read and write. Each change is one short transaction; the
server's writer waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

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
from service.storage.ledger.protocol import T, Transaction
from service.storage.ledger.sqlite import open_current, open_migrated


class MaintenanceLedger:
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
        """Copy the ledger to another data folder as one consistent view and run work on the copy.

        Args:
            folder: gets a ledger, replacing one that is there.
            work: reads the copy.
        """
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


@contextmanager
def open_ledger(folder: Path) -> Iterator[MaintenanceLedger]:
    """Open the ledger of a data folder; migrate its schema if no server is running.

    Raises:
        StartError: a server of another version is running, or the file cannot be used.
    """
    reject_network_file_system(folder)
    path = folder / LEDGER_FILE
    with try_exclusive(folder) as exclusive:
        connection = open_migrated(path) if exclusive else open_current(path)
    try:
        yield MaintenanceLedger(connection)
    finally:
        connection.close()


def read_tokens_ledger(folder: Path, work: Callable[[Transaction], T]) -> T | None:
    """Run work on a ledger that has a table of tokens, without migrating its schema.

    Returns:
        The result; None when the folder has no ledger, or one from before tokens were added.

    Raises:
        StartError: the ledger cannot be read.
    """
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
