"""How many connections there are, and none that only takes room.

Whoever connects comes in as long as anybody is idle: the connection that has waited longest for a
request is closed for it, as any server may close one between two requests. Where none is idle, a
few more are let in all the same, for probes: `service.middleware.concurrency_limit` refuses what
else they ask.

A client that takes nothing of its answer would hold its connection, and the request behind it, for
ever; so it is hung up on.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from service.uvicorn_protocol.request_head import StrictProtocol
from service.uvicorn_protocol.write_coalescing import JoinedWrites

# Beyond the limit, for probes while every other connection is busy.
PROBES = 16
# So often it is looked in a stall's time whether a client takes anything.
LOOKS = 4


class BoundedProtocol(StrictProtocol):
    """One connection of a server that has a bound.

    Attributes:
        most: connections at one time.
        stall_seconds: how long a client may take nothing of its answer.
        held: the connections that are open.
        waiting: those of them that wait for a request's head, the longest first.
    """

    most: ClassVar[int]
    stall_seconds: ClassVar[float]
    held: ClassVar[set[BoundedProtocol]]
    waiting: ClassVar[dict[BoundedProtocol, None]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, if need be in the place of another one."""
        self.held.add(self)
        super().connection_made(transport)
        if len(self.held) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.held.discard(self)
        self._unset_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait until the client takes more of its answer, but not for ever."""
        super().pause_writing()
        self._watch()

    def on_response_complete(self) -> None:
        """Note an answer that is written but not yet taken."""
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        """See that the client takes something of what is written, as long as anything is left."""
        if self._stall is None:
            self._look_later(self._joined.taken_bytes, self.loop.time())

    def _look_later(self, taken: int, since: float) -> None:
        delay = self.stall_seconds / LOOKS
        self._stall = self.loop.call_later(delay, self._look_again, taken, since)

    def _look_again(self, before: int, since: float) -> None:
        """Hang up on who has taken nothing for too long.

        Args:
            before: bytes that had been taken when anything was taken last.
            since: when that was, in the loop's time.
        """
        self._stall = None
        taken, now = self._joined.taken_bytes, self.loop.time()
        if not self._joined.get_write_buffer_size():
            return
        if taken != before:
            self._look_later(taken, now)
        elif now - since < self.stall_seconds:
            self._look_later(before, since)
        else:
            self._joined.abort()

    @property
    def _joined(self) -> JoinedWrites:
        return cast("JoinedWrites", self.transport)

    def _expect_head(self) -> None:
        self.waiting.setdefault(self)
        super()._expect_head()

    def _head_is_there(self) -> None:
        self.waiting.pop(self, None)
        super()._head_is_there()

    def _make_room(self) -> None:
        """Close the connection that has been idle longest; this one where no other is."""
        idle = (one for one in self.waiting if one is not self and one.is_idle)
        oldest = next(idle, self)
        if oldest is self and len(self.held) <= self.most + PROBES:
            return
        self.held.discard(oldest)
        oldest.leave()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way: one may be, while the head of the next comes in."""
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        return cycle is None or cycle.response_complete

    def leave(self) -> None:
        """Hang up, once what is written has been taken."""
        self._head_is_there()
        self.transport.close()

    def _unset_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def bounded_protocol(most: int, idle_seconds: float) -> type[BoundedProtocol]:
    """Return the protocol of one server; uvicorn makes the objects by itself.

    Args:
        most: connections at one time.
        idle_seconds: how long a request's head may take, and how long a client may take nothing of
            its answer.
    """
    return type(
        "OneServersProtocol",
        (BoundedProtocol,),
        {
            "head_seconds": idle_seconds,
            "most": most,
            "stall_seconds": idle_seconds,
            "held": set(),
            "waiting": {},
        },
    )
