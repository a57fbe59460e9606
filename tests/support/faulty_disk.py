"""Fault injection: the k-th disk call of a kind fails, below the blobs and below SQLite."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections import Counter
from pathlib import Path

import apsw

from service.storage.blobs.os_calls import Disk, OsCalls

_names = itertools.count()
# SQLite's error code per call; only ENOSPC of a write has a code of its own.
_SQLITE: dict[str, int] = {
    "sqlite-open": apsw.SQLITE_CANTOPEN,
    "sqlite-write": apsw.SQLITE_IOERR_WRITE,
    "sqlite-sync": apsw.SQLITE_IOERR_FSYNC,
    "sqlite-truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sqlite-read": apsw.SQLITE_IOERR_READ,
}


class Faults:
    """Count the calls of each kind and inject one failure.

    Attributes:
        calls: number of calls of each kind.
        hit: whether the failure was injected.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.plan()

    def plan(self, kind: str = "", at: int = -1, error: int = errno.EIO) -> None:
        """Reset the counters, and select the call that fails by kind and number."""
        self.calls: Counter[str] = Counter()
        self.hit = False
        self._kind = kind
        self._at = at
        self._error = error

    def fails(self, kind: str) -> bool:
        """Count a call, and return whether it must fail."""
        with self._lock:
            number = self.calls[kind]
            self.calls[kind] += 1
            fails = kind == self._kind and number == self._at
            self.hit |= fails
        return fails

    def check(self, kind: str) -> None:
        """Count a call of the operating system, and raise OSError if it must fail."""
        if self.fails(kind):
            raise OSError(self._error, os.strerror(self._error))

    def check_sqlite(self, kind: str) -> None:
        """Count a call of SQLite, and raise its error if it must fail."""
        if self.fails(kind):
            full = self._error == errno.ENOSPC and kind == "sqlite-write"
            raise apsw.exception_for(apsw.SQLITE_FULL if full else _SQLITE[kind])

    def disk(self) -> Disk:
        """Return a disk with these faults."""
        vfs = FaultyVFS(self)
        return Disk(calls=FaultyOsCalls(self), vfs=vfs.name)


class FaultyOsCalls(OsCalls):
    """System calls of the blob store with injected faults."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def open(self, path: Path, flags: int) -> int:
        self._faults.check("open")
        return super().open(path, flags)

    def write(self, handle: int, data: memoryview) -> int:
        if self._faults.fails("short-write"):
            return super().write(handle, data[: max(1, len(data) // 2)])
        try:
            self._faults.check("write")
        except OSError:
            super().write(handle, data[: len(data) // 2])  # a failing write is often partial
            raise
        return super().write(handle, data)

    def fsync(self, handle: int) -> None:
        self._faults.check("fsync")
        super().fsync(handle)

    def replace(self, source: Path, target: Path) -> None:
        self._faults.check("rename")
        super().replace(source, target)

    def mkdir(self, path: Path) -> None:
        self._faults.check("mkdir")
        super().mkdir(path)

    def unlink(self, path: Path) -> None:
        self._faults.check("unlink")
        super().unlink(path)


class FaultyVFS(apsw.VFS):
    """A SQLite VFS with injected faults, which lives as long as the process."""

    _kept: list[FaultyVFS] = []  # noqa: RUF012 - SQLite refers to them only by name

    def __init__(self, faults: Faults) -> None:
        self.name = f"faulty-{next(_names)}"
        self.faults = faults
        super().__init__(self.name, "")
        self._kept.append(self)

    def xOpen(  # noqa: N802 - SQLite's names
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        self.faults.check_sqlite("sqlite-open")
        return FaultyFile(self.faults, name, flags)


class FaultyFile(apsw.VFSFile):
    """A file of SQLite with injected faults."""

    def __init__(
        self, faults: Faults, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        self._faults = faults
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._faults.check_sqlite("sqlite-read")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        try:
            self._faults.check_sqlite("sqlite-write")
        except apsw.Error:
            super().xWrite(bytes(data)[: len(data) // 2], offset)
            raise
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._faults.check_sqlite("sqlite-truncate")
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._faults.check_sqlite("sqlite-sync")
        super().xSync(flags)
