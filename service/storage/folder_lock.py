"""The lock that keeps a data folder to one server."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import StartError


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of a data folder; the kernel releases it when the process ends.

    Raises:
        StartError: another process holds it, or the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"the data folder {folder} cannot be used: {error.strerror}") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(f"another server uses the data folder {folder}") from error
        yield
    finally:
        os.close(handle)


@contextmanager
def try_exclusive(folder: Path) -> Iterator[bool]:
    """Hold the lock if no other process does; yield whether it is held."""
    lock = exclusive(folder)
    try:
        lock.__enter__()
    except StartError:
        yield False
        return
    try:
        yield True
    finally:
        lock.__exit__(None, None, None)
