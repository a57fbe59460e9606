"""Blob store in one folder of a local file system.

Drafts and workspaces are kept in a folder under `staging/`, on the same file system as all blobs,
so a crash leaves no partial file among the blobs. Each process has its own; a start removes those
of processes that have ended. A commit is fsync(file) → rename → fsync(destination folder). A failed
fsync ends the draft. A failed fsync of a folder ends all further commits, because it is then
unknown which names are durable.

Several processes may use one root: the names of files are random, and a folder that another process
removes is created again when a file needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from service.errors import NotFoundError, ServiceError, StartError, StorageFailedError
from service.storage import capacity
from service.storage.blobs.os_calls import OsCalls, write_all
from service.storage.blobs.packs import (
    MAX_FOLDERS,
    MAX_PACK_BYTES,
    FolderPacks,
    PackedBlob,
)
from service.storage.blobs.protocol import BlobContent
from service.storage.capacity import errno_name, translated
from service.storage.scratch import Scratch

_STAGING = "staging"
# Number of folders whose names are known to be durable; knowing more saves no measurable time.
MAX_DURABLE = 100_000
STREAM_BYTES = 1 << 20


class FolderBlobs:
    """`Blobs` under one root folder.

    Attributes:
        scratch: the folder of drafts and workspaces.
        failure: why the store accepts no more blobs; None while it works.
    """

    def __init__(
        self,
        root: Path,
        *,
        calls: OsCalls | None = None,
        reserve_bytes: int = 0,
        max_pack_bytes: int = MAX_PACK_BYTES,
        max_pack_folders: int = MAX_FOLDERS,
    ) -> None:
        """Open a folder.

        Args:
            root: created when missing; what processes that have ended left in its `staging` folder
                is removed.
            calls: the system calls; replaced in tests that inject faults.
            reserve_bytes: uploads leave this much of the disk to the ledger, runs and results.
            max_pack_bytes: a pack of this size is full.
            max_pack_folders: number of folders whose last pack is remembered.

        Raises:
            StartError: the folder cannot be used.
        """
        self._root = root.absolute()
        self._calls = calls or OsCalls()
        self._reserve_bytes = reserve_bytes
        self._folder_lock = threading.Lock()
        # Folders whose names are known to be durable. A folder that existed before this process is
        # not among them: the server that created it may have been killed before its fsync.
        self._durable: set[Path] = set()
        self.failure: str | None = None
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            self._calls.mkdir(self._root / _STAGING)
            self.sync_folder(self._root)
            # A mount point may be in a folder that this user cannot open.
            with contextlib.suppress(PermissionError):
                self.sync_folder(self._root.parent)
            self.scratch = Scratch(self._root / _STAGING)
        except OSError as error:
            text = f"the data folder {root} cannot be used ({errno_name(error)})"
            raise StartError(text) from error
        self._durable.add(self._root)
        self._packs = FolderPacks(
            self, self._calls, max_pack_bytes=max_pack_bytes, max_folders=max_pack_folders
        )

    def bind(self, ledger_id: str) -> None:
        """Do nothing: the ledger is in the same folder, or names it."""
        del ledger_id

    @property
    def packs(self) -> FolderPacks:
        """The packs of small blobs."""
        return self._packs

    async def stage(self, folder: str, content: bytes | bytearray) -> PackedBlob:
        """Prepare a small blob; it is appended to a pack inside the transaction."""
        return PackedBlob(packs=self._packs, folder=folder, content=content)

    def draft(self) -> FileDraft:
        """Start a new file."""
        self.raise_after_failure()
        return FileDraft(self, self._calls, self.scratch.new_path())

    def workspace(self) -> Path:
        """Create an empty private folder for a worker."""
        return self.scratch.new_folder(self._calls)

    def adopt(self, file: Path, key: str) -> None:
        """Store a file from a workspace durably under `key`."""
        with translated():
            handle = self._calls.open(file, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                self._calls.fsync(handle)
            finally:
                os.close(handle)
        self.place(file, key)

    def exists(self, key: str) -> bool:
        """Return whether a blob is stored under `key`."""
        return self.path(key).exists()

    @contextlib.asynccontextmanager
    async def local(self, content: BlobContent) -> AsyncIterator[Path]:
        """Yield the path of a blob."""
        yield self.path(content.key)

    @contextlib.asynccontextmanager
    async def local_folder(
        self, folder: str, contents: AsyncIterator[Sequence[BlobContent]]
    ) -> AsyncIterator[Path]:
        """Yield the path of a folder of blobs; `contents` is not read."""
        del contents
        yield self.path(folder)

    async def stream(self, content: BlobContent, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes of a blob from `start` to `stop`; the digest is not checked."""
        try:
            file = await asyncio.to_thread(self.path(content.key).open, "rb")
        except FileNotFoundError as error:
            raise NotFoundError("the file has just been deleted") from error
        with file:
            file.seek(start)
            while start < stop:
                block = await asyncio.to_thread(file.read, min(STREAM_BYTES, stop - start))
                start += len(block)
                yield block

    def signed_url(self, key: str, seconds: float) -> str | None:
        """Return None: only the server can read the folder."""
        del key, seconds
        return None

    def path(self, key: str) -> Path:
        """Return the path that belongs to a key, whether or not a blob is stored there."""
        return self._root / key

    def names(self, folder: str, *, min_age_seconds: float = 0) -> Iterator[str]:
        """Yield the names directly under a folder that have not changed for some time."""
        newest = time.time() - min_age_seconds
        with (
            translated(),
            contextlib.suppress(FileNotFoundError),
            os.scandir(self._root / folder) as entries,
        ):
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process removed it
                    if min_age_seconds == 0 or entry.stat().st_mtime <= newest:
                        yield entry.name

    def remove(self, key: str) -> None:
        """Remove a blob or a folder of blobs."""
        target = self._root / key
        with translated():
            if target.is_dir():
                with self._folder_lock:
                    self._durable = {one for one in self._durable if not one.is_relative_to(target)}
                shutil.rmtree(target, ignore_errors=True)
            else:
                self._calls.unlink(target)

    def place(self, source: Path, key: str) -> None:
        """Rename an fsynced file to its key and fsync the folders that gained a name."""
        self.raise_after_failure()
        target = self._root / key
        with translated():
            try:
                self._move(source, target)
            except FileNotFoundError:  # another process has removed the folder
                with self._folder_lock:
                    self._durable.intersection_update({self._root})
                self._move(source, target)
        # In the meantime the fsync of the same folder may have failed in another thread.
        self.raise_after_failure()

    def _move(self, source: Path, target: Path) -> None:
        self.make_folder(target.parent)
        self._calls.replace(source, target)
        self.sync_folder(target.parent)

    async def check(self) -> str | None:
        """Return why the store accepts no more blobs; None while it works."""
        return self.failure

    def close(self) -> None:
        """Remove the scratch folder."""
        self.scratch.close()

    def check_reserve(self) -> None:
        """Check that the disk's reserve is free.

        Raises:
            StorageFullError: less than the reserve is free.
        """
        if self._reserve_bytes == 0:
            return
        with translated():
            free = self._calls.free_bytes(self._root)
        capacity.check_reserve(free, self._reserve_bytes)

    def make_folder(self, folder: Path) -> None:
        """Create a folder and its parents, and make their names durable.

        Raises:
            OSError: a folder cannot be created or flushed.
        """
        # The lock keeps other threads from using a folder before its own name is durable.
        with self._folder_lock:
            self._make_folder(folder)

    def _make_folder(self, folder: Path) -> None:
        if folder in self._durable:
            return
        self._make_folder(folder.parent)
        if len(self._durable) >= MAX_DURABLE:  # those that other processes removed are still here
            self._durable.intersection_update({self._root})
        self._calls.mkdir(folder)
        self.sync_folder(folder.parent)
        self._durable.add(folder)

    def sync_folder(self, folder: Path) -> None:
        """Make the names in a folder durable; after a failure the store accepts nothing.

        Raises:
            OSError: the folder cannot be flushed.
        """
        handle = self._calls.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._calls.fsync(handle)
        except OSError as error:
            self.failure = f"fsync of a folder failed ({errno_name(error)}); restart the server"
            raise
        finally:
            os.close(handle)

    def raise_after_failure(self) -> None:
        """Raise an error if a folder could not be made durable.

        Raises:
            StorageFailedError: with the cause.
        """
        if self.failure is not None:
            raise StorageFailedError(self.failure)


class DraftTarget(Protocol):
    """The store that a draft is committed to."""

    def check_reserve(self) -> None:
        """Check that the disk's reserve is free."""
        ...

    def place(self, source: Path, key: str) -> None:
        """Store a complete file under a key; its former path is free afterwards."""
        ...


class FileDraft:
    """A file in the scratch folder."""

    def __init__(
        self, blobs: DraftTarget, calls: OsCalls, path: Path, *, durable: bool = True
    ) -> None:
        """Create the file.

        Args:
            blobs: the store.
            calls: the system calls.
            path: path of the file, which does not exist.
            durable: whether the file itself becomes the blob and must be on the disk before that.
        """
        self._blobs = blobs
        self._calls = calls
        self._durable = durable
        self.path = path
        with translated():
            self._handle = calls.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._open = True
        self._size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        self._blobs.check_reserve()
        with translated():
            written = write_all(self._calls, self._handle, data)
            if self._durable:
                self._calls.start_writeback(self._handle, self._size, written)
        self._size += written

    def commit(self, key: str) -> None:
        """Store the file durably under `key`."""
        try:
            if self._durable:
                with translated():
                    self._calls.fsync(self._handle)
            self._blobs.place(self.path, key)
        except ServiceError:
            self.discard()
            raise
        self._close()

    def discard(self) -> None:
        """Delete the file."""
        self._close()
        # A file that cannot be removed now is removed at the next start; the error that led here
        # must not be replaced by this one.
        with contextlib.suppress(OSError):
            self._calls.unlink(self.path)

    def _close(self) -> None:
        if self._open:
            self._open = False
            # The bytes are fsynced or discarded: an error of close cannot lose data.
            with contextlib.suppress(OSError):
                os.close(self._handle)
