"""Packs: files that hold many small blobs, one behind the other.

A file of its own costs a small blob two waits for the disk, one for its bytes and one for its name.
In a pack, all that come together share one wait, and only a pack's first needs its name on the
disk.

A pack takes part in the transaction that stores the rows of its blobs: it is settled just before
the commit, and without one it loses what was appended. Otherwise it only grows, and goes with its
folder. What a crash leaves at its end belongs to no row of the ledger, and a new server begins new
packs, so that nothing is ever written behind bytes that nobody knows.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.storage.blobs.os_calls import System, write_all
from service.storage.blobs.protocol import Place
from service.storage.os_errors import translated

if TYPE_CHECKING:
    from service.storage.blobs.folder import FolderBlobs

# Then another one is begun: no file grows without bounds.
LARGEST_PACK_BYTES = 64 << 20
# Folders whose last pack is remembered; the next blob of a forgotten one begins a new pack.
MOST_FOLDERS = 256


@dataclass(slots=True, kw_only=True)
class _Pack:
    folder: str
    name: str
    handle: int
    size: int
    settled: int  # bytes that belong to rows of the ledger; a new pack has none


class FolderPacks:
    """`Packs` in the folders of a `FolderBlobs`."""

    def __init__(self, blobs: FolderBlobs, system: System) -> None:
        self._blobs = blobs
        self._system = system
        self._names: dict[str, str] = {}
        self._growing: dict[str, _Pack] = {}
        self._unsettled: list[_Pack] = []

    def append(self, folder: str, data: bytes | bytearray) -> Place:
        """Append a blob to a pack of a folder."""
        self._blobs.refuse_after_failure()
        self._blobs.refuse_when_low()
        with translated():
            pack = self._growing.get(folder) or self._open(folder)
            start = pack.size
            try:
                pack.size += write_all(self._system, pack.handle, data)
            except OSError:
                self._cut(pack, start)
                raise
        if pack.size >= LARGEST_PACK_BYTES:
            self._leave(folder)
        return Place(name=pack.name, start=start)

    def settle(self) -> None:
        """Make all that was appended durable."""
        if not self._unsettled:
            return
        with translated():
            for pack in self._unsettled:
                self._system.fsync(pack.handle)
            for folder in dict.fromkeys(one.folder for one in self._unsettled if not one.settled):
                self._blobs.sync_folder(self._blobs.path(folder))
        # Another thread may have seen the fsync fail that makes the same names durable.
        self._blobs.refuse_after_failure()
        self._close()

    def abandon(self) -> None:
        """Cut off what was appended and not settled, and begin new packs from now on."""
        for pack in self._unsettled:
            self._names.pop(pack.folder, None)
            # What stays belongs to no row, and goes with its folder.
            with contextlib.suppress(OSError):
                if pack.settled:
                    self._system.truncate(pack.handle, pack.settled)
                else:
                    self._system.unlink(self._blobs.path(f"{pack.folder}/{pack.name}"))
        self._close()

    def _close(self) -> None:
        for pack in self._unsettled:
            with contextlib.suppress(OSError):
                os.close(pack.handle)
        self._unsettled.clear()
        self._growing.clear()

    def _cut(self, pack: _Pack, size: int) -> None:
        """Take back what was written of a blob, or write nothing more behind it."""
        try:
            self._system.truncate(pack.handle, size)
        except OSError:
            self._leave(pack.folder)

    def _open(self, folder: str) -> _Pack:
        pack = self._again(folder) or self._begin(folder)
        self._names.pop(folder, None)  # the one used last is the last to be forgotten
        self._names[folder] = pack.name
        if len(self._names) > MOST_FOLDERS:
            del self._names[next(iter(self._names))]
        self._growing[folder] = pack
        self._unsettled.append(pack)
        return pack

    def _again(self, folder: str) -> _Pack | None:
        name = self._names.get(folder)
        if name is None:
            return None
        path = self._blobs.path(f"{folder}/{name}")
        handle = self._system.open(path, os.O_WRONLY | os.O_APPEND)
        size = os.fstat(handle).st_size
        return _Pack(folder=folder, name=name, handle=handle, size=size, settled=size)

    def _begin(self, folder: str) -> _Pack:
        self._blobs.make_folder(self._blobs.path(folder))
        name = f"{secrets.token_hex(12)}.pack"
        path = self._blobs.path(f"{folder}/{name}")
        handle = self._system.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        return _Pack(folder=folder, name=name, handle=handle, size=0, settled=0)

    def _leave(self, folder: str) -> None:
        """Let the next blob begin a new pack."""
        self._growing.pop(folder, None)
        self._names.pop(folder, None)
