"""`Ledger` on one SQLite file."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw

from service.storage.data_folder import reject_network_file_system
from service.storage.ledger import schema
from service.storage.ledger.connection import (
    SqliteTransaction,
    close,
    connect,
    opening,
    schema_version,
    translated,
)
from service.storage.ledger.protocol import T, Transaction
from service.storage.ledger.writer import Writer

# Reads are short; two threads keep one long page from delaying a status query.
READER_THREADS = 2


class SqliteLedger:
    """One writer thread and a few readers, each with its own connection."""

    def __init__(
        self,
        path: Path,
        *,
        on_commit: Callable[[float], None] = lambda _seconds: None,
        vfs: str | None = None,
    ) -> None:
        """Open the file and migrate its schema.

        Args:
            path: the file; its folder exists.
            on_commit: called with the duration of each transaction in seconds.
            vfs: name of SQLite's virtual file system; None for its default.

        Raises:
            StartError: SQLite is too old, the schema is too new, or the file is on a network file
                system or cannot be read or written.
        """
        reject_network_file_system(path.parent)
        self._path = path
        self._vfs = vfs
        connection = open_migrated(path, vfs=vfs)
        self._writer = Writer(connection, on_commit=on_commit)
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="ledger-reader")
        self._local = threading.local()
        self._open: list[apsw.Connection] = []

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Run work and return its result once its changes are durable."""
        result: T = await asyncio.wrap_future(self._writer.submit(work))
        return result

    async def read(self, work: Callable[[Transaction], T]) -> T:
        """Run work on a consistent view of durable data."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    @property
    def version(self) -> str:
        """Version of SQLite."""
        return apsw.sqlite_lib_version()

    @property
    def failure(self) -> str | None:
        """Why the ledger accepts no more writes; None while it works."""
        return self._writer.failure

    def close(self) -> None:
        """Finish the accepted writes and close the file."""
        self._readers.shutdown()
        for connection in self._open:
            close(connection)
        self._writer.close()

    def _read(self, work: Callable[[Transaction], T]) -> T:
        with translated():
            connection = self._reader()
            connection.execute("BEGIN")
            try:
                return work(SqliteTransaction(connection))
            finally:
                connection.execute("ROLLBACK")

    def _reader(self) -> apsw.Connection:
        connection: apsw.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = connect(self._path, vfs=self._vfs)
            connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
            self._open.append(connection)
        return connection


def open_migrated(path: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open the ledger's file and migrate its schema.

    Raises:
        StartError: see `SqliteLedger`.
    """
    with opening(path):
        connection = connect(path, vfs=vfs)
        try:
            _migrate(connection)
        except BaseException:
            close(connection)
            raise
    return connection


def _migrate(connection: apsw.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for migration in schema.pending(schema_version(connection)):
        connection.execute(migration)
    connection.execute(f"PRAGMA user_version = {schema.VERSION}")
    connection.execute("COMMIT")
