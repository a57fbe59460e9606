"""The ledger for one command: read and changed beside a running server, as SQLite's WAL allows.

Each change is one short transaction; the server's writer waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from service.errors import StartError
from service.folder_lock import only_server
from service.ledger import schema
from service.ledger.connection import SqliteTransaction, connect, translated
from service.ledger.placement import LEDGER_FILE, refuse_network_file_system
from service.ledger.protocol import T, Transaction
from service.ledger.sqlite import migrate


class AdminLedger:
    """One connection."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.connection = connection

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work on one consistent view."""
        return self._run("BEGIN", work, "ROLLBACK")

    def write(self, work: Callable[[Transaction], T]) -> T:
        """Run work as one change; an exception undoes it."""
        return self._run("BEGIN IMMEDIATE", work, "COMMIT")

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
def opened(folder: Path) -> Iterator[AdminLedger]:
    """Open the ledger of a data folder; without a running server its tables are brought up to date.

    Raises:
        StartError: a server of another version is running, or the file cannot be used.
    """
    refuse_network_file_system(folder)
    path = folder / LEDGER_FILE
    running = False
    try:
        with only_server(folder):
            connection = connect(path)
            migrate(connection)
    except StartError:
        running = path.exists()
        if not running:
            raise
    if running:
        connection = connect(path)
    try:
        if (found := version(connection)) != schema.VERSION:
            raise StartError(
                f"the ledger has schema version {found}, this command knows {schema.VERSION}: "
                "stop the server, or use the command of its version"
            )
        yield AdminLedger(connection)
    finally:
        connection.close()


def version(connection: apsw.Connection) -> int:
    """Return the version of a ledger's tables."""
    found = connection.execute("PRAGMA user_version").get
    return found if isinstance(found, int) else 0


def tokens_of(folder: Path) -> int:
    """Count the tokens in the ledger of a data folder; 0 when there is no ledger."""
    path = folder / LEDGER_FILE
    if not path.exists():
        return 0
    connection = connect(path)
    try:
        if version(connection) < schema.WITH_TOKENS:
            return 0
        found = connection.execute("SELECT count(*) FROM token").get
        return found if isinstance(found, int) else 0
    finally:
        connection.close()
