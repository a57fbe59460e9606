"""A connection's writes, joined while nothing else happens.

uvicorn writes the head and the body of an answer one after the other. On a connection without
delay each is a packet, and wakes the client, which then waits for the other one.
"""

from __future__ import annotations

import asyncio
from typing import Any


class JoinedWrites:
    """A transport that writes what was given to it since the event loop's last turn at once."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._waiting: list[bytes] = []
        self._written = 0

    @property
    def taken_bytes(self) -> int:
        """What has left so far, for the other side or its system."""
        return self._written - self.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Write at the end of the loop's turn."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)
        self._written += len(data)

    def close(self) -> None:
        """Write what is waiting, then close."""
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Return the bytes that have not left yet."""
        waiting = sum(map(len, self._waiting))
        return waiting + self._transport.get_write_buffer_size()

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the transport."""
        return getattr(self._transport, name)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.writelines(waiting)
