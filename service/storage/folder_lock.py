"""One server for each data folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.errors import StartError


@contextmanager
def only_server(folder: Path) -> Iterator[None]:
    """Hold a data folder; the kernel lets go of it when the process ends, however it ends.

    Raises:
        StartError: another server holds it, or it cannot be made.
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
