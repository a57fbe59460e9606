"""Notifications inside one process. They carry no state: a woken waiter reads the ledger."""

from __future__ import annotations

import asyncio
from collections import defaultdict


class Signals:
    """Wakes waiters when a recalibration may have changed.

    Attributes:
        closed: whether the server is shutting down.
    """

    def __init__(self) -> None:
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.closed = False

    def close(self) -> None:
        """Wake all waiters: the server is shutting down."""
        self.closed = True
        for events in list(self._waiters.values()):
            for event in events:
                event.set()

    def topics(self) -> list[str]:
        """Return the topics that have subscribers."""
        return list(self._waiters)

    def notify(self, topic: str) -> None:
        """Wake all waiters of a topic."""
        for event in self._waiters.get(topic, ()):
            event.set()

    def subscribe(self, topic: str) -> Subscription:
        """Subscribe to a topic; notifications from now on are not missed."""
        event = asyncio.Event()
        self._waiters[topic].add(event)
        return Subscription(self, topic, event)

    def unsubscribe(self, topic: str, event: asyncio.Event) -> None:
        """Remove a subscription."""
        self._waiters[topic].discard(event)
        if not self._waiters[topic]:
            del self._waiters[topic]


class Subscription:
    """A subscription to one topic."""

    def __init__(self, signals: Signals, topic: str, event: asyncio.Event) -> None:
        self._signals = signals
        self._topic = topic
        self._event = event

    async def wait(self, timeout_seconds: float) -> bool:
        """Wait for a notification; return False if the time is over first."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def close(self) -> None:
        """Remove a subscription."""
        self._signals.unsubscribe(self._topic, self._event)
