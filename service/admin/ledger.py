"""The ledger for one command: read and changed beside a running server, as SQLite's WAL allows.

Each change is one short transaction; the server's writer waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import apsw

from service.errors import StartError
from service.storage.folder_lock import only_server
from service.storage.ledger import schema
from service.storage.ledger.connection import (
    SqliteTransaction,
    connect,
    opening,
    schema_version,
    translated,
)
from service.storage.ledger.filesystem_check import LEDGER_FILE, refuse_network_file_system
from service.storage.ledger.protocol import T, Transaction
from service.storage.ledger.sqlite import open_up_to_date


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
def alone(folder: Path) -> Iterator[bool]:
    """Keep servers from starting meanwhile; False when one runs."""
    with ExitStack() as stack:
        try:
            stack.enter_context(only_server(folder))
        except StartError:
            yield False
        else:
            yield True


@contextmanager
def opened(folder: Path) -> Iterator[AdminLedger]:
    """Open the ledger of a data folder; without a running server its tables are brought up to date.

    Raises:
        StartError: a server of another version is running, or the file cannot be used.
    """
    refuse_network_file_system(folder)
    path = folder / LEDGER_FILE
    with alone(folder) as ours:
        connection = open_up_to_date(path) if ours else _as_it_is(path)
    try:
        yield AdminLedger(connection)
    finally:
        connection.close()


def tokens_of(folder: Path) -> int:
    """Count the tokens in the ledger of a data folder; 0 when there is no ledger.

    Raises:
        StartError: it cannot be read.
    """
    path = folder / LEDGER_FILE
    if not path.exists():
        return 0
    with opening(path), closing(connect(path)) as connection:
        if schema_version(connection) < schema.WITH_TOKENS:
            return 0
        found = connection.execute("SELECT count(*) FROM token").get
        return found if isinstance(found, int) else 0


def _as_it_is(path: Path) -> apsw.Connection:
    """Open the ledger of a running server, whose tables are not ours to change."""
    if not path.exists():
        raise StartError(f"there is no ledger {path} that could be opened")
    with opening(path):
        connection = connect(path)
        if (found := schema_version(connection)) == schema.VERSION:
            return connection
        connection.close()
    raise StartError(
        f"the ledger has schema version {found}, this command knows {schema.VERSION}: "
        "stop the server, or use the command of its version"
    )
