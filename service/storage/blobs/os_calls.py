"""The calls of the operating system that blobs are made of.

A seam of one class: a test lets the k-th call of a kind fail and sees that nothing is acknowledged
that is not on the disk.
"""

from __future__ import annotations

import os
from pathlib import Path


class System:
    """Each method is one system call."""

    def open(self, path: Path, flags: int) -> int:
        """Open a file or folder; a new file is private."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write(self, handle: int, data: memoryview) -> int:
        """Write some of the bytes; return how many."""
        return os.write(handle, data)

    def begin_writing_out(self, handle: int, start: int, length: int) -> None:
        """Have the disk begin with what was written, so that `fsync` finds little left to wait for.

        Linux does that when told that the pages are not needed; those that are being written stay.
        """
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, start, length, os.POSIX_FADV_DONTNEED)

    def fsync(self, handle: int) -> None:
        """Wait until a file, or the names in a folder, are on the disk."""
        os.fsync(handle)

    def truncate(self, handle: int, size: int) -> None:
        """Cut a file off."""
        os.ftruncate(handle, size)

    def free(self, path: Path) -> int:
        """Return the bytes that may still be written to the file system of a path."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def replace(self, source: Path, target: Path) -> None:
        """Rename a file, in place of what was there."""
        source.replace(target)

    def mkdir(self, path: Path) -> None:
        """Make a private folder; harmless when it is there."""
        path.mkdir(mode=0o700, exist_ok=True)

    def unlink(self, path: Path) -> None:
        """Remove a file; harmless when it is not there."""
        path.unlink(missing_ok=True)


def write_all(system: System, handle: int, data: bytes | bytearray | memoryview) -> int:
    """Write all of the bytes, in as many calls as it takes; return how many they are."""
    with memoryview(data) as view:
        rest = view
        while rest:
            rest = rest[system.write(handle, rest) :]
        return len(view)
