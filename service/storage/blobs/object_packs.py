"""Packs of an object store: small blobs of one folder that wait at the same time share an object.

A request takes milliseconds to tens of milliseconds, and costs the store processor time, whatever
it carries. So blobs wait while an earlier pack of their folder is on the way, and then leave
together; many bytes do not wait. A pack never changes, and holds the blobs of one folder only: a
folder can be removed without a look into packs.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.storage.blobs.protocol import BlobLocation
from service.storage.ledger.protocol import Transaction

MAX_PACK_BYTES = 8 << 20
# More packs of a folder at the same time would only be smaller ones. The second one is worth its
# request when this many bytes wait.
MAX_OF_FOLDER = 2
SECOND_PACK_BYTES = 1 << 20
MAX_PACKS = 16

Put = Callable[[str, bytes], Awaitable[None]]
"""Stores an object durably under a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A staged blob that is durable already."""

    location: BlobLocation

    def store(self, tx: Transaction) -> BlobLocation:
        """Return the location."""
        del tx
        return self.location


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Waiting:
    content: bytes | bytearray
    stored: asyncio.Future[StoredObject]


class ObjectPacks:
    """Gathers small blobs; all methods are called in one event loop."""

    def __init__(self, put: Put) -> None:
        """Start without waiting blobs.

        Args:
            put: stores a pack.
        """
        self._put = put
        self._waiting: dict[str, list[_Waiting]] = {}
        self._waiting_bytes: Counter[str] = Counter()
        self._sending: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def stage(self, folder: str, content: bytes | bytearray) -> StoredObject:
        """Store a small blob durably in a pack of a folder.

        Raises:
            CapacityError: it could not be stored.
        """
        one = _Waiting(content=content, stored=asyncio.get_running_loop().create_future())
        self._waiting.setdefault(folder, []).append(one)
        self._waiting_bytes[folder] += len(content)
        self._send()
        return await one.stored

    def _send(self) -> None:
        """Send the packs that may leave now, those first whose blobs have waited longest."""
        ready = [folder for folder in self._waiting if self._may_send(folder)]
        for folder in ready[: MAX_PACKS - self._sending.total()]:
            self._sending[folder] += 1
            pack = self._take(folder)
            task = asyncio.create_task(self._send_pack(folder, pack), name="pack")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _may_send(self, folder: str) -> bool:
        sending = self._sending[folder]
        if 0 < sending < MAX_OF_FOLDER:
            return self._waiting_bytes[folder] >= SECOND_PACK_BYTES
        return sending == 0

    def _take(self, folder: str) -> list[_Waiting]:
        """Remove the next blobs of a folder from those that wait."""
        waiting = self._waiting.pop(folder)
        size, count = 0, 0
        while count < len(waiting) and (not count or size < MAX_PACK_BYTES):
            size += len(waiting[count].content)
            count += 1
        self._waiting_bytes[folder] -= size
        if rest := waiting[count:]:
            self._waiting[folder] = rest
        else:
            del self._waiting_bytes[folder]
        return waiting[:count]

    async def _send_pack(self, folder: str, pack: list[_Waiting]) -> None:
        name = f"{secrets.token_hex(16)}.pack"
        try:
            await self._put(f"{folder}/{name}", b"".join(one.content for one in pack))
        except Exception as error:  # noqa: BLE001 - raised in each request
            for one in pack:
                if not one.stored.done():
                    one.stored.set_exception(_copy(error))
        else:
            _locate(pack, name)
        self._sending[folder] -= 1
        if not self._sending[folder]:
            del self._sending[folder]
        self._send()


def _locate(pack: list[_Waiting], name: str) -> None:
    start = 0
    for one in pack:
        if not one.stored.done():  # its request was cancelled: the bytes belong to no row
            location = BlobLocation(name=name, start=start)
            one.stored.set_result(StoredObject(location=location))
        start += len(one.content)


def _copy(error: Exception) -> Exception:
    """Return an equal error: each request that raises one adds its own traceback."""
    return type(error)(*error.args)
