"""`Blobs` in one folder of a local file system.

Drafts and workspaces lie in `staging/`, on the same file system as everything else and wiped at
each start: no crash leaves a half-written file among the blobs. A commit is fsync(file) → rename →
fsync(destination folder). A failed fsync ends the draft; a failed fsync of a folder ends all
further commits, because nobody knows any more which names are on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from service.errors import ServiceError, StorageFailedError, StorageFullError

STAGING = "staging"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class FolderBlobs:
    """Blobs under one root."""

    def __init__(self, root: Path, *, fsync: Callable[[int], None] = os.fsync) -> None:
        """Take a folder into use.

        Args:
            root: made when missing; its `staging` folder is emptied.
            fsync: the system call; replaced in tests that let it fail.
        """
        self._root = root
        self._fsync = fsync
        self._growing = threading.Lock()
        self.failure: str | None = None
        shutil.rmtree(root / STAGING, ignore_errors=True)
        (root / STAGING).mkdir(parents=True)

    def draft(self) -> FileDraft:
        """Begin a file."""
        self._refuse_after_failure()
        return FileDraft(self, self._root / STAGING / secrets.token_hex(16))

    def workspace(self) -> Path:
        """Make an empty private folder for a worker."""
        folder = self._root / STAGING / secrets.token_hex(16)
        with translated():
            folder.mkdir(mode=0o700)
        return folder.absolute()

    def adopt(self, file: Path, key: str) -> None:
        """Make a file from a workspace durable under `key`."""
        with translated():
            handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                self._fsync(handle)
            finally:
                os.close(handle)
        self.place(file, key)

    def path(self, key: str) -> Path:
        """Return where a blob lies (or would lie)."""
        return (self._root / key).absolute()

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names directly under a folder."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root / folder) as entries:
            for entry in entries:
                yield entry.name

    def remove(self, key: str) -> None:
        """Remove a blob or a folder of blobs."""
        target = self._root / key
        with translated():
            if target.is_dir():
                shutil.rmtree(target, ignore_errors=True)
            else:
                target.unlink(missing_ok=True)

    def sync(self, handle: int) -> None:
        """Fsync an open file."""
        self._fsync(handle)

    def place(self, source: Path, key: str) -> None:
        """Rename an fsynced file to its key and fsync the folders that gained a name."""
        self._refuse_after_failure()
        target = self._root / key
        with translated():
            # Held, so that nobody relies on a folder whose own name is not on the disk yet.
            with self._growing:
                self._make_folders(target.parent)
            source.replace(target)
            self._sync_folder(target.parent)

    def _make_folders(self, folder: Path) -> None:
        """Make missing folders down from the root, and make their names durable."""
        missing = [one for one in [folder, *folder.parents] if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for one in missing:
            self._sync_folder(one.parent)

    def _sync_folder(self, folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._fsync(handle)
        except OSError as error:
            self.failure = f"fsync of a folder failed ({_name(error)}); restart the server"
            raise
        finally:
            os.close(handle)

    def _refuse_after_failure(self) -> None:
        if self.failure is not None:
            raise StorageFailedError(self.failure)


class FileDraft:
    """A file in the staging folder."""

    def __init__(self, blobs: FolderBlobs, path: Path) -> None:
        self._blobs = blobs
        self.path = path.absolute()
        with translated():
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        with translated(), memoryview(data) as view:
            rest = view
            while rest:
                rest = rest[os.write(self._handle, rest) :]

    def commit(self, key: str) -> None:
        """Make the file durable under `key`."""
        try:
            with translated():
                self._blobs.sync(self._handle)
            self._blobs.place(self.path, key)
        except ServiceError:
            self.discard()
            raise
        self._close()

    def discard(self) -> None:
        """Throw the file away."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._handle)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the operating system's errors into this package's, once."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError("no space is left for blobs; nothing was stored") from error
        raise StorageFailedError(f"a blob could not be stored ({_name(error)})") from error


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "unknown error")
