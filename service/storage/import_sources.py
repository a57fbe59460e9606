"""Objects that may be imported as batches: those below the prefixes that the operator allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from service.errors import ForbiddenError
from service.storage.blobs.object_client import ObjectClient, spans

_SETTING = "BNRECAL_IMPORT_PREFIXES"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportSource:
    """An object outside the blob store."""

    client: ObjectClient
    key: str

    async def size(self) -> int:
        """Return the size in bytes.

        Raises:
            NotFoundError: there is no such object.
            CapacityError: the store does not respond or denies the request.
        """
        return await asyncio.to_thread(self.client.size, self.key)

    async def blocks(self, size: int) -> AsyncIterator[bytearray]:
        """Yield the content in blocks like a body: at least one.

        Raises:
            NotFoundError, CapacityError: see `size`.
        """
        if not size:
            yield bytearray()
        for start, stop in spans(0, size):
            yield bytearray(await asyncio.to_thread(self.client.read, self.key, start, stop))


class ImportSources:
    """Finds objects by URL."""

    def __init__(self, prefixes: str = "") -> None:
        """Read the allowed prefixes.

        Args:
            prefixes: URLs, separated by commas.

        Raises:
            StartError: a URL is not one of an object store, or obstore is not installed.
        """
        found = [one.strip().rstrip("/") for one in prefixes.split(",") if one.strip()]
        self._clients = {f"{one}/": ObjectClient(one, setting=_SETTING) for one in found}

    def find(self, url: str) -> ImportSource:
        """Return the object of a URL.

        Raises:
            ForbiddenError: the URL is below no allowed prefix.
        """
        for prefix, client in self._clients.items():
            key = url.removeprefix(prefix)
            if key != url and not {"", ".", ".."} & set(key.split("/")):
                return ImportSource(client=client, key=key)
        raise ForbiddenError(f"{url[:200]!r} is below no prefix of {_SETTING}")
