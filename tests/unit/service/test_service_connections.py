"""What happens to a connection whose client does not take the end of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from uvicorn.config import Config
from uvicorn.server import ServerState

from service.http.connections import bounded_protocol


class Transport(asyncio.Transport):
    """Holds what was written as long as a test wants."""

    def __init__(self, *, closing: bool) -> None:
        super().__init__()
        self.left = 10
        self.aborted = False
        self._closing = closing

    def get_write_buffer_size(self) -> int:
        return self.left

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self.aborted = True


def _stands(transport: Transport) -> None:
    del transport


def _shrinks(transport: Transport) -> None:
    transport.left -= 1


def _is_taken(transport: Transport) -> None:
    transport.left = 0


@pytest.mark.parametrize(
    ("closing", "change", "aborted"),
    [
        pytest.param(True, _stands, True, id="nothing is taken"),
        pytest.param(True, _shrinks, False, id="it is taken slowly"),
        pytest.param(True, _is_taken, False, id="all was taken"),
        pytest.param(False, _stands, False, id="more may be written"),
    ],
)
def test_the_end_of_an_answer_is_waited_for_as_long_as_it_is_taken(
    *, closing: bool, change: Callable[[Transport], None], aborted: bool
) -> None:
    async def look() -> bool:
        kind = bounded_protocol(4, 3600.0)
        protocol: Any = kind(Config(_app), ServerState(), {}, asyncio.get_running_loop())
        protocol.transport = transport = Transport(closing=closing)
        change(transport)
        protocol._look_again(10)
        return transport.aborted

    assert asyncio.run(look()) is aborted


async def _app(scope: object, receive: object, send: object) -> None:
    del scope, receive, send
