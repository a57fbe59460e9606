"""`Ledger` on one SQLite file."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import apsw

from service.errors import ServiceError, StartError, StorageFailedError
from service.storage.data_folder import reject_network_file_system, try_lock
from service.storage.ledger import schema
from service.storage.ledger.connection import (
    SqliteTransaction,
    SqliteWriter,
    close,
    connect,
    opening,
    schema_version,
    translated,
)
from service.storage.ledger.protocol import Item, T, Transaction
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
        migrate: bool = True,
    ) -> None:
        """Open the file and migrate its schema.

        Args:
            path: the file; its folder exists.
            migrate: False while another process uses the file; its schema must be current then.
            on_commit: called with the duration of each transaction in seconds.
            vfs: name of SQLite's virtual file system; None for its default.

        Raises:
            StartError: SQLite is too old, the schema is too new, or the file is on a network file
                system or cannot be read or written.
        """
        reject_network_file_system(path.parent)
        self._path = path
        self._vfs = vfs
        connection = open_migrated(path, vfs=vfs) if migrate else open_current(path, vfs=vfs)
        self._writer = Writer(SqliteWriter(connection), on_commit=on_commit)
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="ledger-reader")
        self._local = threading.local()
        self._open: list[apsw.Connection] = []
        self._leader: int | None = None

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
        """Run work on a consistent view of durable data."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def leads(self) -> bool:
        """Return whether this process holds the lock of a file next to the ledger."""
        if self._leader is None:
            self._leader = _try_lock(self._path.with_name(f"{self._path.name}-leader"))
        return self._leader is not None

    def listen(self, notify: Callable[[str], None]) -> None:
        """Do nothing: SQLite has no notifications."""
        del notify

    async def warnings(self) -> list[str]:
        """Return nothing: each commit waits for the disk, and there is no other copy."""
        return []

    @property
    def version(self) -> str:
        """Name and version of SQLite."""
        return f"SQLite {apsw.sqlite_lib_version()}"

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
        if self._leader is not None:
            os.close(self._leader)
            self._leader = None

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


def open_current(path: Path, *, vfs: str | None = None) -> apsw.Connection:
    """Open the ledger of a running server, whose schema must not be changed.

    Raises:
        StartError: there is no ledger, it has another schema version, or it cannot be used.
    """
    if not path.exists():
        raise StartError(f"there is no ledger {path}")
    with opening(path):
        connection = connect(path, vfs=vfs)
        if (found := schema_version(connection)) == schema.VERSION:
            return connection
        close(connection)
    raise StartError(
        f"the ledger has schema version {found}, this process supports {schema.VERSION}: "
        "stop the server that uses it, or use the version of that server"
    )


def _try_lock(path: Path) -> int | None:
    """Return the handle of a file whose lock this process holds; None if another one holds it."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFailedError(f"the lock {path} cannot be used: {error.strerror}") from error
    if try_lock(handle):
        return handle
    os.close(handle)
    return None


def _migrate(connection: apsw.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for migration in schema.pending(schema_version(connection)):
        connection.execute(migration)
    connection.execute(f"PRAGMA user_version = {schema.VERSION}")
    connection.execute("COMMIT")
