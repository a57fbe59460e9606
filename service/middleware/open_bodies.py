"""The bodies that are being waited for, so that a shutdown can end the waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import ShuttingDownError


class OpenBodies:
    """All deadlines of one server that wait for a part of a body; of one event loop."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Timeout] = set()
        self._closed = False

    def close(self) -> None:
        """Refuse what has not come yet: an answer now is better than a connection that breaks."""
        self._closed = True
        for deadline in self._waiting:
            deadline.reschedule(0.0)

    @asynccontextmanager
    async def deadline(self, seconds: float) -> AsyncIterator[None]:
        """Wait for a part of a body inside.

        Raises:
            TimeoutError: nothing came for so long.
            ShuttingDownError: the server is going down and waits no longer.
        """
        if self._closed:
            raise _refusal()
        try:
            async with asyncio.timeout(seconds) as deadline:
                self._waiting.add(deadline)
                try:
                    yield
                finally:
                    self._waiting.discard(deadline)
        except TimeoutError:
            if self._closed:
                raise _refusal() from None
            raise


def _refusal() -> ShuttingDownError:
    return ShuttingDownError("the server is going down; send it again when it is back")
