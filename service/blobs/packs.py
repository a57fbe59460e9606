"""Packs: files that hold many small blobs, one behind the other.

A file of its own costs a small blob two waits for the disk, one for its bytes and one for its name.
In a pack, all that come together share one wait, and only a pack's first needs its name on the
disk. A pack grows at its end and is never changed otherwise; it goes with its folder. What a crash
leaves at its end belongs to no row of the ledger, and a new server begins new packs, so that
nothing is ever written behind bytes that nobody knows.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.blobs.protocol import Place
from service.blobs.system import System
from service.blobs.translation import translated
from service.errors import ServiceError

if TYPE_CHECKING:
    from service.blobs.folder import FolderBlobs

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
    is_new: bool


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
                self._write(pack, data)
            except OSError:
                self._leave(folder)  # how much of it was written is of no interest
                raise
        if pack.size >= LARGEST_PACK_BYTES:
            self._leave(folder)
        return Place(name=pack.name, start=start)

    def settle(self) -> None:
        """Make all that was appended durable."""
        packs, self._unsettled = self._unsettled, []
        self._growing.clear()
        try:
            with translated():
                for pack in packs:
                    self._system.fsync(pack.handle)
                for folder in dict.fromkeys(pack.folder for pack in packs if pack.is_new):
                    self._blobs.sync_folder(self._blobs.path(folder))
        except ServiceError:
            # What of these packs is on the disk nobody knows any more.
            for pack in packs:
                self._names.pop(pack.folder, None)
            raise
        finally:
            for pack in packs:
                with contextlib.suppress(OSError):
                    os.close(pack.handle)

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
        return _Pack(folder=folder, name=name, handle=handle, size=size, is_new=False)

    def _begin(self, folder: str) -> _Pack:
        self._blobs.make_folder(self._blobs.path(folder))
        name = f"{secrets.token_hex(12)}.pack"
        path = self._blobs.path(f"{folder}/{name}")
        handle = self._system.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL)
        return _Pack(folder=folder, name=name, handle=handle, size=0, is_new=True)

    def _write(self, pack: _Pack, data: bytes | bytearray) -> None:
        with memoryview(data) as view:
            rest = view
            while rest:
                rest = rest[self._system.write(pack.handle, rest) :]
            pack.size += len(view)

    def _leave(self, folder: str) -> None:
        """Let the next blob begin a new pack."""
        self._growing.pop(folder, None)
        self._names.pop(folder, None)
