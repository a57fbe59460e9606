"""The system calls of the storage layer, and the injection point for disk faults.

A test makes the k-th call of a kind fail and checks that nothing is acknowledged that is not
durable.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


class OsCalls:
    """Each method is one system call."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file or folder; a new file is readable by its owner only."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write(self, handle: int, data: memoryview) -> int:
        """Write some of the bytes and return their number."""
        return os.write(handle, data)

    def start_writeback(self, handle: int, start: int, length: int) -> None:
        """Start writing a range to the disk, so that a later `fsync` has little left to wait for.

        Linux starts writeback when it is advised that the pages are not needed; pages that are
        being written stay in the cache.
        """
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, start, length, os.POSIX_FADV_DONTNEED)

    def fsync(self, handle: int) -> None:
        """Wait until a file, or the names in a folder, are durable."""
        os.fsync(handle)

    def truncate(self, handle: int, size: int) -> None:
        """Truncate a file."""
        os.ftruncate(handle, size)

    def free_bytes(self, path: Path) -> int:
        """Return how many bytes can still be written to the file system of a path."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file, replacing an existing target."""
        source.replace(target)

    def mkdir(self, path: Path) -> None:
        """Create a private folder unless it exists."""
        path.mkdir(mode=0o700, exist_ok=True)

    def unlink(self, path: Path) -> None:
        """Remove a file if it exists."""
        path.unlink(missing_ok=True)


def write_all(calls: OsCalls, handle: int, data: bytes | bytearray | memoryview) -> int:
    """Write all bytes, in as many calls as necessary, and return their number."""
    with memoryview(data) as view:
        rest = view
        while rest:
            rest = rest[calls.write(handle, rest) :]
        return len(view)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """How the server reaches its disk; tests replace both parts to inject faults.

    Attributes:
        calls: the system calls of the blob store.
        vfs: name of SQLite's virtual file system for the ledger; None for its default.
    """

    calls: OsCalls = field(default_factory=OsCalls)
    vfs: str | None = None
