"""A clock that advances only by sleeping."""

from __future__ import annotations

from collections.abc import Awaitable, Callable


class FakeTime:
    """Monotonic seconds for a client.

    Attributes:
        now: the current time, in seconds.
        slept: the pauses so far, in seconds.
        on_sleep: awaited in each pause.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.on_sleep: Callable[[float], Awaitable[None]] = _at_once

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await self.on_sleep(seconds)


async def _at_once(seconds: float) -> None:
    del seconds
