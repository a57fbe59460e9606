"""Packs: files that hold many small blobs, concatenated.

A small blob in a file of its own costs two waits for the disk, one for its bytes and one for its
name. In a pack, all blobs of a group commit share one wait, and only the first blob of a pack adds
a name.

A pack takes part in the transaction that stores the rows of its blobs: it is flushed just before
the commit, and truncated to its former size if it fails. Apart from that it only grows, and
it is removed with its folder. Bytes that a crash leaves at its end belong to no row of the ledger;
a new server starts new packs, so it never appends after bytes of unknown state.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from service.storage.blobs.os_calls import OsCalls, write_all
from service.storage.blobs.protocol import BlobLocation
from service.storage.capacity import translated
from service.storage.ledger.protocol import Transaction

if TYPE_CHECKING:
    from service.storage.blobs.folder import FolderBlobs
    from service.storage.ledger.protocol import EnlistingTransaction

# A pack of this size is full, and the next blob starts a new one.
MAX_PACK_BYTES = 64 << 20
# Number of folders whose last pack is remembered; the next blob of any other starts a new pack.
MAX_FOLDERS = 256


@dataclass(slots=True, kw_only=True)
class _Pack:
    folder: str
    name: str
    handle: int
    size: int
    flushed: int  # bytes that belong to rows of the ledger; 0 for a new pack


class FolderPacks:
    """Packs in the folders of a `FolderBlobs`; a participant in the ledger's transactions.

    All methods are called by the ledger's writer thread.
    """

    def __init__(
        self,
        blobs: FolderBlobs,
        calls: OsCalls,
        *,
        max_pack_bytes: int = MAX_PACK_BYTES,
        max_folders: int = MAX_FOLDERS,
    ) -> None:
        self._blobs = blobs
        self._calls = calls
        self._max_pack_bytes = max_pack_bytes
        self._max_folders = max_folders
        self._names: dict[str, str] = {}
        self._growing: dict[str, _Pack] = {}
        self._unflushed: list[_Pack] = []

    def append(self, folder: str, data: bytes | bytearray) -> BlobLocation:
        """Append a blob to a pack of a folder; it is not durable before `flush`.

        Raises:
            StorageFullError, StorageFailedError: it could not be written.
        """
        self._blobs.raise_after_failure()
        self._blobs.check_reserve()
        with translated():
            pack = self._growing.get(folder) or self._open(folder)
            start = pack.size
            try:
                pack.size += write_all(self._calls, pack.handle, data)
            except OSError:
                self._truncate(pack, start)
                raise
        if pack.size >= self._max_pack_bytes:
            self._retire(folder)
        return BlobLocation(name=pack.name, start=start)

    def flush(self) -> None:
        """Make all appended blobs durable.

        Raises:
            StorageFullError, StorageFailedError: it is unknown which of them are durable.
        """
        if not self._unflushed:
            return
        with translated():
            for pack in self._unflushed:
                self._calls.fsync(pack.handle)
            for folder in dict.fromkeys(one.folder for one in self._unflushed if not one.flushed):
                self._blobs.sync_folder(self._blobs.path(folder))
        # In the meantime the fsync of the same folder may have failed in another thread.
        self._blobs.raise_after_failure()
        self._close()

    def rollback(self) -> None:
        """Remove appended blobs that were not flushed; later blobs start new packs."""
        for pack in self._unflushed:
            self._names.pop(pack.folder, None)
            # Bytes that cannot be removed belong to no row, and are removed with their folder.
            with contextlib.suppress(OSError):
                if pack.flushed:
                    self._calls.truncate(pack.handle, pack.flushed)
                else:
                    self._calls.unlink(self._blobs.path(f"{pack.folder}/{pack.name}"))
        self._close()

    def _close(self) -> None:
        for pack in self._unflushed:
            with contextlib.suppress(OSError):
                os.close(pack.handle)
        self._unflushed.clear()
        self._growing.clear()

    def _truncate(self, pack: _Pack, size: int) -> None:
        """Remove a partly written blob; a pack that cannot be truncated gets no more blobs."""
        try:
            self._calls.truncate(pack.handle, size)
        except OSError:
            self._retire(pack.folder)

    def _open(self, folder: str) -> _Pack:
        pack = self._reopen(folder) or self._create(folder)
        self._names.pop(folder, None)  # moves the folder to the end: least recently used first
        self._names[folder] = pack.name
        if len(self._names) > self._max_folders:
            del self._names[next(iter(self._names))]
        self._growing[folder] = pack
        self._unflushed.append(pack)
        return pack

    def _reopen(self, folder: str) -> _Pack | None:
        name = self._names.get(folder)
        if name is None:
            return None
        path = self._blobs.path(f"{folder}/{name}")
        handle = self._calls.open(path, os.O_WRONLY | os.O_APPEND)
        size = os.fstat(handle).st_size
        return _Pack(folder=folder, name=name, handle=handle, size=size, flushed=size)

    def _create(self, folder: str) -> _Pack:
        self._blobs.make_folder(self._blobs.path(folder))
        name = f"{secrets.token_hex(12)}.pack"
        path = self._blobs.path(f"{folder}/{name}")
        handle = self._calls.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        return _Pack(folder=folder, name=name, handle=handle, size=0, flushed=0)

    def _retire(self, folder: str) -> None:
        """Start a new pack for the next blob of a folder."""
        self._growing.pop(folder, None)
        self._names.pop(folder, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedBlob:
    """A staged blob that is appended to a pack inside the transaction of its row."""

    packs: FolderPacks
    folder: str
    content: bytes | bytearray

    def store(self, tx: Transaction) -> BlobLocation:
        """Append the blob; the pack is flushed before the transaction commits."""
        # Not checked at run time: isinstance of a protocol costs as much as the append itself.
        cast("EnlistingTransaction", tx).enlist(self.packs)
        return self.packs.append(self.folder, self.content)
