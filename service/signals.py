"""Wake-ups inside one process. They carry no state: whoever wakes reads the ledger."""

from __future__ import annotations

import asyncio
from collections import defaultdict


class Signals:
    """Lets waiters sleep until a recalibration, or the queue, may have changed."""

    def __init__(self) -> None:
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.closed = False

    def close(self) -> None:
        """Wake everybody for the last time: the server is going down."""
        self.closed = True
        for events in list(self._waiters.values()):
            for event in events:
                event.set()

    def notify(self, topic: str) -> None:
        """Wake everybody who waits on a topic."""
        for event in self._waiters.get(topic, ()):
            event.set()

    def subscribe(self, topic: str) -> Subscription:
        """Begin to listen; what happens from now on is not missed."""
        event = asyncio.Event()
        self._waiters[topic].add(event)
        return Subscription(self, topic, event)

    def unsubscribe(self, topic: str, event: asyncio.Event) -> None:
        """Stop to listen."""
        self._waiters[topic].discard(event)
        if not self._waiters[topic]:
            del self._waiters[topic]


class Subscription:
    """One listener."""

    def __init__(self, signals: Signals, topic: str, event: asyncio.Event) -> None:
        self._signals = signals
        self._topic = topic
        self._event = event

    async def wait(self, timeout_seconds: float) -> bool:
        """Sleep until the next change; False when the time is over first."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def close(self) -> None:
        """Stop to listen."""
        self._signals.unsubscribe(self._topic, self._event)
