"""What happens to a connection whose client does not take the end of its answer."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.uvicorn_protocol.connection_limit import limited_protocol

STALL_SECONDS = 0.05


class Transport(asyncio.Transport):
    """Holds what was written as long as a test wants."""

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


def _protocol(transport: Transport) -> Any:
    kind = limited_protocol(4, 3600.0)
    kind.stall_seconds = STALL_SECONDS
    protocol: Any = kind(Config(_app), ServerState(), {}, asyncio.get_running_loop())
    protocol.connection_made(transport)
    return protocol


def _stands(transport: Transport) -> None:
    del transport


def _shrinks(transport: Transport) -> None:
    transport.left -= 1


def _is_taken(transport: Transport) -> None:
    transport.left = 0


@pytest.mark.parametrize(
    ("change", "aborted"),
    [
        pytest.param(_stands, True, id="nothing is taken"),
        pytest.param(_shrinks, False, id="it is taken slowly"),
        pytest.param(_is_taken, False, id="all was taken"),
    ],
)
def test_an_answer_is_waited_for_as_long_as_it_is_taken(
    *, change: Callable[[Transport], None], aborted: bool
) -> None:
    async def look() -> bool:
        protocol = _protocol(transport := Transport())
        protocol.pause_writing()
        for _ in range(8):
            await asyncio.sleep(STALL_SECONDS / 2)
            change(transport)
        return transport.aborted

    assert asyncio.run(look()) is aborted


def test_a_connection_that_has_ended_is_held_by_nothing() -> None:
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
