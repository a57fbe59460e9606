"""Files that are either whole or not there."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

__all__ = ["Draft", "draft", "write_atomically"]


class Draft:
    """A file that is still being written, beside where it will stand."""

    def __init__(self, file: IO[bytes], temporary: Path) -> None:
        self.file = file
        self._temporary = temporary

    def publish(self, path: Path) -> None:
        """Make the content durable and move it into place; `path` lies in the draft's folder."""
        self.file.flush()
        os.fsync(self.file.fileno())
        # mkstemp makes private files; a model is to be read like any other file of this user.
        self._temporary.chmod(0o666 & ~_umask())
        self._temporary.replace(path)
        _sync_folder(path.parent)


@contextmanager
def draft(folder: Path, prefix: str) -> Iterator[Draft]:
    """Open a file to write; what has not been published at the end is gone.

    Raises:
        OSError: the folder is missing or full.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{prefix}.", dir=folder)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield Draft(file, temporary)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its destination, make it durable, and move it into place.

    Raises:
        OSError: the folder is missing or full; a file that stood at `path` is untouched.
    """
    with draft(path.parent, path.name) as found:
        found.file.write(content)
        found.publish(path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
