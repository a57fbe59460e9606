"""A disk whose k-th call of a kind fails: below the blobs and below SQLite, in this process."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections import Counter
from pathlib import Path

import apsw

from service.storage.blobs.os_calls import System
from service.storage.disk import Disk

_names = itertools.count()
# What SQLite itself makes of an errno; ENOSPC at a write is the one that it tells apart.
_SQLITE: dict[str, int] = {
    "sqlite-open": apsw.SQLITE_CANTOPEN,
    "sqlite-write": apsw.SQLITE_IOERR_WRITE,
    "sqlite-sync": apsw.SQLITE_IOERR_FSYNC,
    "sqlite-truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "sqlite-read": apsw.SQLITE_IOERR_READ,
}


class Faults:
    """Counts the calls of each kind and lets one of them fail.

    Attributes:
        calls: how many there were of each kind.
        hit: whether the fault has happened.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.plan()

    def plan(self, kind: str = "", at: int = -1, error: int = errno.EIO) -> None:
        """Begin to count anew, and let the call of a kind with this number fail."""
        self.calls: Counter[str] = Counter()
        self.hit = False
        self._kind = kind
        self._at = at
        self._error = error

    def due(self, kind: str) -> bool:
        """Count a call; True when it is the one that must fail."""
        with self._lock:
            number = self.calls[kind]
            self.calls[kind] += 1
            due = kind == self._kind and number == self._at
            self.hit |= due
        return due

    def check(self, kind: str) -> None:
        """Count a call of the operating system, and let it fail when its time has come."""
        if self.due(kind):
            raise OSError(self._error, os.strerror(self._error))

    def check_sqlite(self, kind: str) -> None:
        """Count a call of SQLite's, likewise."""
        if self.due(kind):
            full = self._error == errno.ENOSPC and kind == "sqlite-write"
            raise apsw.exception_for(apsw.SQLITE_FULL if full else _SQLITE[kind])

    def disk(self) -> Disk:
        """Return the disk that these faults are on."""
        vfs = FaultyVFS(self)
        return Disk(system=FaultySystem(self), vfs=vfs.name)


class FaultySystem(System):
    """The calls of the blobs."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def open(self, path: Path, flags: int) -> int:
        self._faults.check("open")
        return super().open(path, flags)

    def write(self, handle: int, data: memoryview) -> int:
        if self._faults.due("short-write"):
            return super().write(handle, data[: max(1, len(data) // 2)])
        try:
            self._faults.check("write")
        except OSError:
            super().write(handle, data[: len(data) // 2])  # a disk that fails has often begun
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
    """The layer below SQLite; it lives as long as the process."""

    _kept: list[FaultyVFS] = []  # noqa: RUF012 - SQLite refers to them by name alone

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
    """One of SQLite's files."""

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
