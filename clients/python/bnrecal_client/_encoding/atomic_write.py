"""Atomic writing of files."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

__all__ = ["write_atomic"]


def write_atomic(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write a file so that a reader, even after a power cut, sees the old or the new content.

    The temporary file is in the target's folder, because a rename is atomic only within one file
    system. It is flushed to disk before the rename; otherwise a power cut could leave an empty
    file under the final name.

    Returns:
        The path written.

    Raises:
        OSError: from the file system; the target is unchanged, and no temporary file remains.
    """
    target = Path(path)
    temporary, handle = _create(target)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            if target.exists():
                os.fchmod(file.fileno(), target.stat().st_mode & 0o777)
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename != str(target):
            # Writing names no file, and renaming the temporary one.
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
    _sync_folder(target.parent)
    return target


def _create(target: Path) -> tuple[Path, int]:
    """Create a temporary file with the permissions that `open` gives a new file."""
    while True:
        path = target.with_name(f".{target.name}.{secrets.token_hex(6)}.part")
        try:
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            continue


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
