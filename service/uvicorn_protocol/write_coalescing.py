"""A transport that combines the writes of one iteration of the event loop.

uvicorn writes the header and the body of a response separately. On a connection with TCP_NODELAY
each becomes a packet, and the client wakes up for the first only to wait for the second.
"""

from __future__ import annotations

import asyncio
from typing import Any


class WriteCoalescingTransport:
    """Wraps a transport; everything but writing is delegated to it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pending: list[bytes] = []
        self._written = 0

    @property
    def sent_bytes(self) -> int:
        """Bytes that were passed on to the client or its operating system so far."""
        return self._written - self.get_write_buffer_size()

    def write(self, data: bytes) -> None:
        """Write at the end of this iteration of the event loop."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)
        self._written += len(data)

    def close(self) -> None:
        """Write what is pending, then close."""
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that have not been sent."""
        pending = sum(map(len, self._pending))
        return pending + self._transport.get_write_buffer_size()

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the transport."""
        return getattr(self._transport, name)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if pending and not self._transport.is_closing():
            self._transport.writelines(pending)
