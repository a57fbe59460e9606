"""`Blobs` in one folder of a local file system.

Drafts and workspaces lie in `staging/`, on the same file system as everything else and wiped at
each start: no crash leaves a half-written file among the blobs. A commit is fsync(file) → rename →
fsync(destination folder). A failed fsync ends the draft; a failed fsync of a folder ends all
further commits, because nobody knows any more which names are on the disk.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from service.errors import ServiceError, StartError, StorageFailedError, StorageFullError
from service.storage.blobs.os_calls import System, write_all
from service.storage.blobs.packs import FolderPacks
from service.storage.os_errors import name_of, translated

STAGING = "staging"


class FolderBlobs:
    """Blobs under one root."""

    def __init__(self, root: Path, *, system: System | None = None, reserve_bytes: int = 0) -> None:
        """Take a folder into use.

        Args:
            root: made when missing; its `staging` folder is emptied.
            system: the system calls; replaced in tests that let them fail.
            reserve_bytes: drafts leave so much of the disk to the ledger, to runs and results.

        Raises:
            StartError: the folder cannot be used.
        """
        self._root = root.absolute()
        self._system = system or System()
        self._reserve_bytes = reserve_bytes
        self._growing = threading.Lock()
        # Folders whose own names are on the disk for certain. One that was there before us is not
        # among them: the server that made it may have been killed before its fsync.
        self._durable: set[Path] = set()
        self.failure: str | None = None
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(self._root / STAGING, ignore_errors=True)
            self._system.mkdir(self._root / STAGING)
            self.sync_folder(self._root)
            with contextlib.suppress(PermissionError):  # a mount point in a folder of others
                self.sync_folder(self._root.parent)
        except OSError as error:
            raise StartError(f"the data folder {root} cannot be used ({name_of(error)})") from error
        self._durable.add(self._root)
        self._packs = FolderPacks(self, self._system)

    @property
    def packs(self) -> FolderPacks:
        """The packs of small blobs."""
        return self._packs

    def draft(self) -> FileDraft:
        """Begin a file."""
        self.refuse_after_failure()
        return FileDraft(self, self._system, self._root / STAGING / secrets.token_hex(16))

    def workspace(self) -> Path:
        """Make an empty private folder for a worker."""
        folder = self._root / STAGING / secrets.token_hex(16)
        with translated():
            self._system.mkdir(folder)
        return folder

    def adopt(self, file: Path, key: str) -> None:
        """Make a file from a workspace durable under `key`."""
        with translated():
            handle = self._system.open(file, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                self._system.fsync(handle)
            finally:
                os.close(handle)
        self.place(file, key)

    def path(self, key: str) -> Path:
        """Return where a blob lies (or would lie)."""
        return self._root / key

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names directly under a folder."""
        with (
            translated(),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self._root / folder) as entries,
        ):
            for entry in entries:
                yield entry.name

    def remove(self, key: str) -> None:
        """Remove a blob or a folder of blobs."""
        target = self._root / key
        with translated():
            if target.is_dir():
                with self._growing:
                    self._durable = {one for one in self._durable if not one.is_relative_to(target)}
                shutil.rmtree(target, ignore_errors=True)
            else:
                self._system.unlink(target)

    def place(self, source: Path, key: str) -> None:
        """Rename an fsynced file to its key and fsync the folders that gained a name."""
        self.refuse_after_failure()
        target = self._root / key
        with translated():
            self.make_folder(target.parent)
            self._system.replace(source, target)
            self.sync_folder(target.parent)
        # Another thread may have seen the fsync fail that makes the same names durable.
        self.refuse_after_failure()

    def refuse_when_low(self) -> None:
        """Keep the reserve.

        Raises:
            StorageFullError: less than it is free.
        """
        if self._reserve_bytes == 0:
            return
        with translated():
            free = self._system.free(self._root)
        if free < self._reserve_bytes:
            raise StorageFullError(
                f"less than {self._reserve_bytes} bytes are free on the server's disk; "
                "nothing was stored"
            )

    def make_folder(self, folder: Path) -> None:
        """Make a folder and those above it, and make their names durable.

        Raises:
            OSError: that failed.
        """
        # Held, so that nobody relies on a folder whose own name is not on the disk yet.
        with self._growing:
            self._make_folder(folder)

    def _make_folder(self, folder: Path) -> None:
        if folder in self._durable:
            return
        self._make_folder(folder.parent)
        self._system.mkdir(folder)
        self.sync_folder(folder.parent)
        self._durable.add(folder)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable; when that fails, nothing is taken any more.

        Raises:
            OSError: it failed.
        """
        handle = self._system.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._system.fsync(handle)
        except OSError as error:
            self.failure = f"fsync of a folder failed ({name_of(error)}); restart the server"
            raise
        finally:
            os.close(handle)

    def refuse_after_failure(self) -> None:
        """Take nothing once a folder could not be made durable.

        Raises:
            StorageFailedError: that happened.
        """
        if self.failure is not None:
            raise StorageFailedError(self.failure)


class FileDraft:
    """A file in the staging folder."""

    def __init__(self, blobs: FolderBlobs, system: System, path: Path) -> None:
        self._blobs = blobs
        self._system = system
        self.path = path
        with translated():
            self._handle = system.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._open = True
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        self._blobs.refuse_when_low()
        with translated():
            written = write_all(self._system, self._handle, data)
            self._system.begin_writing_out(self._handle, self._size, written)
        self._size += written

    def commit(self, key: str) -> None:
        """Make the file durable under `key`."""
        try:
            with translated():
                self._system.fsync(self._handle)
            self._blobs.place(self.path, key)
        except ServiceError:
            self.discard()
            raise
        self._close()

    def discard(self) -> None:
        """Throw the file away."""
        self._close()
        # What stays is removed at the next start; the error that led here is the one to tell.
        with contextlib.suppress(OSError):
            self._system.unlink(self.path)

    def _close(self) -> None:
        if self._open:
            self._open = False
            # The bytes were fsynced, or are thrown away: there is nothing left to fail.
            with contextlib.suppress(OSError):
                os.close(self._handle)
