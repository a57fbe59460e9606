"""The folder for scratch files of one process, and what processes that have ended left.

Drafts and workspaces are files of one process. Each process has a folder of its own for them and
holds the lock of a file with the same name. The kernel releases the lock when the process ends, so
another process can distinguish a folder that is in use from one that was left.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from service.storage.blobs.os_calls import OsCalls
from service.storage.capacity import translated
from service.storage.data_folder import try_lock

_LOCK = ".lock"


class Scratch:
    """The scratch folder of this process.

    Attributes:
        id: name of the folder; random, so it identifies the process among all that share a ledger.
        folder: the folder, which is empty and private.
        ended: ids of processes that have ended and whose folders were removed.
    """

    def __init__(self, root: Path) -> None:
        """Remove the folders of processes that have ended, and create one for this process.

        Args:
            root: parent of the scratch folders, which exists and holds nothing else.

        Raises:
            OSError: the folder cannot be created.
        """
        self._root = root
        self.ended = frozenset(self._remove_ended())
        self.id, self._handle = self._create()
        self.folder = root / self.id
        self.folder.mkdir(mode=0o700)

    def new_path(self) -> Path:
        """Return a path in the folder that nothing uses."""
        return self.folder / secrets.token_hex(16)

    def new_folder(self, calls: OsCalls) -> Path:
        """Create an empty private folder in the folder.

        Raises:
            StorageFullError, StorageFailedError: it cannot be created.
        """
        path = self.new_path()
        with translated():
            calls.mkdir(path)
        return path

    def close(self) -> None:
        """Remove the folder and release its lock.

        The file of the lock stays. From it the next start learns that this process has ended, and
        takes over the runs that it could not return to the queue.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._handle)

    def _create(self) -> tuple[str, int]:
        """Return a new id and the handle of its lock."""
        while True:
            name = secrets.token_hex(16)
            path = self._lock_file(name)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if try_lock(handle) and _is_at(handle, path):
                return name, handle
            os.close(handle)  # another process took the file for one that was left

    def _remove_ended(self) -> list[str]:
        names = {path.name for path in self._root.iterdir()}
        ids = {name.removesuffix(_LOCK) for name in names if name.endswith(_LOCK)}
        ended = [one for one in ids if self._remove_if_ended(one)]
        # The lock comes before the folder, so nothing uses a file or folder without a lock.
        for name in names:
            if name not in ids and not name.endswith(_LOCK) and not self._lock_file(name).exists():
                _remove(self._root / name)
        return ended

    def _remove_if_ended(self, name: str) -> bool:
        path = self._lock_file(name)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            if not (try_lock(handle) and _is_at(handle, path)):
                return False
            shutil.rmtree(self._root / name, ignore_errors=True)
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(handle)

    def _lock_file(self, name: str) -> Path:
        return self._root / f"{name}{_LOCK}"


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file is the one that a path names."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
