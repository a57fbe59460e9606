"""A limit on connections, and a timeout for clients that stop reading the response.

A new connection is accepted as long as another one is idle: the connection that has been idle
longest is closed for it, as HTTP allows between two requests. If none is idle, a few more are
accepted for probes; `service.middleware.concurrency_limit` rejects their other requests.

A client that stops reading its response would hold its connection, and the request, indefinitely;
its connection is closed.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.uvicorn_protocol.request_head import HeaderLimitsProtocol
from service.uvicorn_protocol.write_coalescing import WriteCoalescingTransport

# Connections beyond the limit, for probes while all others are busy.
PROBE_CONNECTIONS = 16
# Number of checks within the stall time.
STALL_CHECKS = 4


class LimitedProtocol(HeaderLimitsProtocol):
    """The protocol of one connection of a server with a limit.

    Attributes:
        max_connections: limit of open connections.
        stall_seconds: how long a client may read nothing of its response.
        open_connections: the open connections.
        waiting: those that wait for the header of a request, longest first.
    """

    max_connections: ClassVar[int]
    stall_seconds: ClassVar[float]
    open_connections: ClassVar[set[LimitedProtocol]]
    waiting: ClassVar[dict[LimitedProtocol, None]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection, and close an idle one if there are too many."""
        self.open_connections.add(self)
        super().connection_made(transport)
        if len(self.open_connections) > self.max_connections:
            self._close_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """Remove the connection and cancel its timers."""
        self.open_connections.discard(self)
        self._cancel_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait until the client reads more of its response, up to the stall time."""
        super().pause_writing()
        self._watch()

    def on_response_complete(self) -> None:
        """Watch the client read the rest of a response that is completely written."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """Check that the client keeps reading as long as written data is not sent."""
        if self._stall is None:
            self._schedule_check(self._coalescing.sent_bytes, self.loop.time())

    def _schedule_check(self, sent: int, since: float) -> None:
        delay = self.stall_seconds / STALL_CHECKS
        self._stall = self.loop.call_later(delay, self._check_stall, sent, since)

    def _check_stall(self, before: int, since: float) -> None:
        """Close the connection if nothing was sent for too long.

        Args:
            before: bytes that were sent at the last progress.
            since: time of the last progress, on the loop's clock.
        """
        self._stall = None
        sent, now = self._coalescing.sent_bytes, self.loop.time()
        if not self._coalescing.get_write_buffer_size():
            return
        if sent != before:
            self._schedule_check(sent, now)
        elif now - since < self.stall_seconds:
            self._schedule_check(before, since)
        else:
            self._coalescing.abort()

    @property
    def _coalescing(self) -> WriteCoalescingTransport:
        return cast("WriteCoalescingTransport", self.transport)

    def _expect_header(self) -> None:
        self.waiting.setdefault(self)
        super()._expect_header()

    def _header_complete(self) -> None:
        self.waiting.pop(self, None)
        super()._header_complete()

    def _close_idle(self) -> None:
        """Close the connection that has been idle longest; this one if no other is idle."""
        idle = (one for one in self.waiting if one is not self and one.is_idle)
        oldest = next(idle, self)
        if (
            oldest is self
            and len(self.open_connections) <= self.max_connections + PROBE_CONNECTIONS
        ):
            return
        self.open_connections.discard(oldest)
        oldest.leave()

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress; one may be while the next header arrives."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete

    def leave(self) -> None:
        """Close the connection after the written data is sent."""
        self._header_complete()
        self.transport.close()

    def _cancel_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def limited_protocol(max_connections: int, idle_seconds: float) -> type[LimitedProtocol]:
    """Return the protocol class of one server; uvicorn creates its instances without arguments.

    Args:
        max_connections: limit of open connections.
        idle_seconds: how long a request header may take, and how long a client may read nothing of
            its response.
    """
    return type(
        "ServerProtocol",
        (LimitedProtocol,),
        {
            "header_seconds": idle_seconds,
            "max_connections": max_connections,
            "stall_seconds": idle_seconds,
            "open_connections": set(),
            "waiting": {},
        },
    )
