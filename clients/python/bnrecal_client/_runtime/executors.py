"""Tries that are on their way at once: threads for the synchronous client, tasks for the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING

import anyio

from bnrecal_client._http.messages import Request, Response
from bnrecal_client._runtime.effects import Arrived, Post

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

__all__ = ["Tasks", "Threads"]


class Threads:
    """As many threads as there were ever tries on their way at once.

    They are daemons: whoever is interrupted need not wait for an answer that may take minutes. The
    try that a thread is left with ends by itself, and nobody hears of it.

    Args:
        send: sends one request and returns its response.
    """

    def __init__(self, send: Callable[[Request], Response]) -> None:
        self._send = send
        self._posted: SimpleQueue[Post | None] = SimpleQueue()
        self._arrived: SimpleQueue[Arrived] = SimpleQueue()
        self._under_way = 0
        self._started = 0

    def post(self, post: Post) -> None:
        """Send a request without waiting for it."""
        self._under_way += 1
        self._posted.put(post)
        if self._under_way > self._started:
            self._started += 1
            Thread(target=self._work, name="bnrecal-client", daemon=True).start()

    def arrived(self, seconds: float) -> Arrived | None:
        """Wait for the next that has ended; None after so many seconds."""
        try:
            arrived = self._arrived.get(timeout=seconds)
        except Empty:
            return None
        self._under_way -= 1
        return _checked(arrived)

    def close(self) -> None:
        """Let the threads end; what none has begun is not sent."""
        try:
            while True:
                self._posted.get_nowait()
        except Empty:
            for _ in range(self._started):
                self._posted.put(None)

    def _work(self) -> None:
        while (post := self._posted.get()) is not None:
            try:
                outcome: Response | BaseException = self._send(post.request)
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                outcome = error
            self._arrived.put(Arrived(post.ticket, outcome))


class Tasks:
    """One task for each try.

    Args:
        send: sends one request and returns its response.
        group: where the tasks live; cancelling it gives up what is on its way.
    """

    def __init__(self, send: Callable[[Request], Awaitable[Response]], group: TaskGroup) -> None:
        self._send = send
        self._group = group
        self._arrived: deque[Arrived] = deque()
        self._bell = anyio.Event()

    def post(self, post: Post) -> None:
        """Send a request without waiting for it."""
        self._group.start_soon(self._work, post)

    async def arrived(self, seconds: float) -> Arrived | None:
        """Wait for the next that has ended; None after so many seconds."""
        if not self._arrived:
            self._bell = anyio.Event()
            with anyio.move_on_after(seconds):
                await self._bell.wait()
        return _checked(self._arrived.popleft()) if self._arrived else None

    async def _work(self, post: Post) -> None:
        try:
            outcome = await self._send(post.request)
        except BaseException as error:
            self._put(Arrived(post.ticket, error))
            if isinstance(error, anyio.get_cancelled_exc_class()):
                raise
        else:
            self._put(Arrived(post.ticket, outcome))

    def _put(self, arrived: Arrived) -> None:
        self._arrived.append(arrived)
        self._bell.set()


def _checked(arrived: Arrived) -> Arrived:
    """Raise here what is no business of the plan that sent it, such as Ctrl-C."""
    if isinstance(arrived.outcome, Response | Exception):
        return arrived
    raise arrived.outcome
