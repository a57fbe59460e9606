"""A server that commits rows before their objects are stored: the object chaos must detect it."""

from __future__ import annotations

import asyncio
import secrets
import sys

from service.server import main
from service.storage.blobs.object_packs import StoredObject
from service.storage.blobs.objects import ObjectBlobs
from service.storage.blobs.protocol import BlobLocation

# Long enough that a busy machine, too, has acknowledged batches in this time when it is killed.
DELAY_SECONDS = 1.0
_tasks: set[asyncio.Task[None]] = set()


async def _stage(blobs: ObjectBlobs, folder: str, content: bytes | bytearray) -> StoredObject:
    name = f"{secrets.token_hex(16)}.pack"

    async def store() -> None:
        await asyncio.sleep(DELAY_SECONDS)
        await blobs._put_pack(f"{folder}/{name}", bytes(content))

    task = asyncio.create_task(store())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return StoredObject(location=BlobLocation(name=name, start=0))


if __name__ == "__main__":
    ObjectBlobs.stage = _stage  # type: ignore[method-assign, assignment] # a function with `self`
    sys.exit(main(sys.argv[1:]))
