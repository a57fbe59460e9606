"""The folder through which sites and coordinator exchange messages."""

from __future__ import annotations

import os
import time
from pathlib import Path

__all__ = ["moments_path", "settled_path", "wait_for", "write"]

_POLL_SECONDS = 0.05


def moments_path(folder: Path, level: int, site: int) -> Path:
    """Return the file with a site's moments of a level."""
    return folder / f"{level:04}-site{site}.moments"


def settled_path(folder: Path, level: int) -> Path:
    """Return the file with the statistics of a level."""
    return folder / f"{level:04}.settled"


def write(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    draft.write_bytes(content)
    draft.replace(path)


def wait_for(path: Path, *, seconds: float) -> bytes:
    """Return the content of a file, as soon as there is one.

    Raises:
        TimeoutError: no file appeared in time.
    """
    deadline = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear within {seconds:g} s")
        time.sleep(_POLL_SECONDS)
    return path.read_bytes()
