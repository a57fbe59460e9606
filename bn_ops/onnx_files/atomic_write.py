"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["Draft", "draft", "write_atomically"]

# Read and write for everybody, less the process's umask, which open() applies.
_MODE = 0o666


class Draft:
    """A file that is being written under a temporary name in its destination folder."""

    def __init__(self, file: IO[bytes], temporary: Path) -> None:
        self.file = file
        self._temporary = temporary

    def publish(self, path: Path) -> None:
        """Make the content durable and rename the file to `path`, which is in the same folder."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self._temporary.replace(path)
        _sync_folder(path.parent)


@contextmanager
def draft(folder: Path, prefix: str) -> Iterator[Draft]:
    """Open a temporary file for writing; it is removed at the end unless it was published.

    Raises:
        OSError: the folder is missing or full.
    """
    temporary = folder / f".{prefix}.{secrets.token_hex(8)}"
    # Not tempfile: its files are private, while a model is readable like any other file of the
    # user, and the umask can only be read by changing it for all threads.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield Draft(file, temporary)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file durably, replacing an existing one in one step.

    Raises:
        OSError: the folder is missing or full; an existing file at `path` is unchanged.
    """
    with draft(path.parent, path.name) as found:
        found.file.write(content)
        found.publish(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
