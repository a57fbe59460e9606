"""Connections whose client stops reading the response."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.uvicorn_protocol.connection_limit import limited_protocol

STALL_SECONDS = 0.05


class Transport(asyncio.Transport):
    """Keeps written bytes until a test removes them."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 10
        self.aborted = False

    def get_write_buffer_size(self) -> int:
        return self.left

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is left to write."""

    def abort(self) -> None:
        self.aborted = True
        self.left = 0


class Clock:
    """The timer functions of an event loop; time passes only in `advance`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[..., None], *args: object) -> Any:
        timer = (self.now + delay, lambda: call(*args))
        self._timers.append(timer)
        return SimpleNamespace(cancel=lambda: self._timers.remove(timer))

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [one for one in self._timers if one[0] <= until]:
            timer = min(due, key=lambda one: one[0])
            self._timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = until


def _protocol(transport: Transport) -> Any:
    kind = limited_protocol(4, 3600.0)
    kind.stall_seconds = STALL_SECONDS
    protocol: Any = kind(Config(_app), ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(transport)
    return protocol


def _reads_nothing(transport: Transport) -> None:
    del transport


def _reads_slowly(transport: Transport) -> None:
    transport.left -= 1


def _reads_all(transport: Transport) -> None:
    transport.left = 0


@pytest.mark.parametrize(
    ("change", "aborted"),
    [
        pytest.param(_reads_nothing, True, id="nothing read"),
        pytest.param(_reads_slowly, False, id="slowly read"),
        pytest.param(_reads_all, False, id="everything read"),
    ],
)
def test_stalled_connection_is_aborted(
    *, change: Callable[[Transport], None], aborted: bool
) -> None:
    async def look() -> bool:
        protocol = _protocol(transport := Transport())
        protocol.loop = clock = Clock()
        protocol.pause_writing()
        for _ in range(8):
            clock.advance(STALL_SECONDS / 2)
            change(transport)
        return transport.aborted

    assert asyncio.run(look()) is aborted


def test_closed_connection_is_garbage_collected() -> None:
    async def look() -> object:
        protocol = _protocol(Transport())
        protocol.pause_writing()
        protocol.connection_lost(None)
        ended = weakref.ref(protocol)
        del protocol
        gc.collect()
        return ended()

    assert asyncio.run(look()) is None


async def _app(scope: object, receive: object, send: object) -> None:
    del scope, receive, send
