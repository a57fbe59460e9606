"""Which thread the caller's own code runs in, and how several uploads run at once.

Both clients run the same coroutines. The caller's own code (iterables, callbacks, and slow work
such as hashing) runs in worker threads for `AsyncClient`; for `Client`, whose event loop has a
thread of its own, it runs in the thread that called the method. `CALLER` holds which of the two.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import anyio
import anyio.to_thread

from bnrecal_client.errors import with_recalibration

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

__all__ = ["CALLER", "Caller", "CallingThread", "ConcurrentUploads", "Sleep", "UploadAbandoned"]

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[None]]

# Windows delivers Ctrl-C only between two waits.
_MAX_WAIT_S = 1.0


class Caller(Protocol):
    """Runs the caller's own code."""

    async def run(self, function: Callable[[], T]) -> T:
        """Return the value of a function that may take long."""

    async def notify(self, callback: Callable[[], None]) -> None:
        """Call a callback, which is short."""

    def begin(self, recalibration_id: str) -> None:
        """Record the recalibration in progress, for the message of an interrupt."""


class _WorkerThreads:
    """Runs slow code in worker threads, and callbacks in the event loop."""

    async def run(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function)

    async def notify(self, callback: Callable[[], None]) -> None:
        callback()

    def begin(self, recalibration_id: str) -> None:
        """Record nothing: an interrupt reaches the coroutine as a cancellation."""


CALLER: ContextVar[Caller] = ContextVar("CALLER", default=_WorkerThreads())  # noqa: B039 - stateless


class CallingThread:
    """Runs a coroutine in another thread's event loop, and its caller's own code in this thread.

    One object serves one call of a method.
    """

    def __init__(self) -> None:
        self._recalibration_id: str | None = None
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ended = threading.Event()

    def call(self, portal: BlockingPortal, work: Callable[[], Awaitable[T]]) -> T:
        """Return what the coroutine returns; an exception of this thread cancels it.

        Raises:
            BaseException: from the coroutine; or Ctrl-C and the like, raised in this thread.
        """
        future = portal.start_task_soon(self._run, work)
        try:
            self._serve()
        except BaseException as error:
            future.cancel()
            # Long enough for connections to be closed; a transport that hangs is left behind.
            self._ended.wait(_MAX_WAIT_S)
            if self._recalibration_id is None:
                raise
            named = with_recalibration(error, self._recalibration_id)
            if named is error:
                raise
            raise named from error
        return future.result()

    async def _run(self, work: Callable[[], Awaitable[T]]) -> T:
        CALLER.set(self)
        try:
            return await work()
        finally:
            self._ended.set()
            self._jobs.put(None)

    def _serve(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=_MAX_WAIT_S)
            except Empty:
                continue
            if job is None:
                return
            job()

    async def run(self, function: Callable[[], T]) -> T:
        """Return the value of a function that runs in this object's thread."""
        future: Future[T] = Future()
        self._jobs.put(partial(_fulfil, future, function))
        return await asyncio.wrap_future(future)

    async def notify(self, callback: Callable[[], None]) -> None:
        """Call a callback in this object's thread."""
        await self.run(callback)

    def begin(self, recalibration_id: str) -> None:
        """Record the recalibration in progress."""
        self._recalibration_id = recalibration_id


def _fulfil(future: Future[T], function: Callable[[], T]) -> None:
    """Run a function for a future; what is not an Exception, such as Ctrl-C, is raised here."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        value = function()
    except Exception as error:  # noqa: BLE001 - raised where the future is awaited
        future.set_exception(error)
    else:
        future.set_result(value)


class UploadAbandoned(Exception):  # noqa: N818 - a signal inside this package
    """An upload is not retried, because another upload has failed."""


class ConcurrentUploads:
    """Uploads that run at the same time, at most `limit` of them; an asynchronous context manager.

    After a failure no further upload begins, and those in progress end without another try. On
    leaving the context, all uploads have ended, and the first failure in the order of the stream is
    raised, as if the uploads had run one after another.

    Args:
        limit: most uploads in progress.
        sleep: waits for a number of seconds.
    """

    def __init__(self, limit: int, sleep: Sleep) -> None:
        self._slots = anyio.Semaphore(limit)
        self._sleep = sleep
        self._group = anyio.create_task_group()
        self._failures: dict[int, Exception] = {}
        self._pauses: set[anyio.CancelScope] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if isinstance(error, anyio.get_cancelled_exc_class()):
            return await self._group.__aexit__(kind, error, traceback)
        if error is not None and not isinstance(error, Exception):
            self._group.cancel_scope.cancel()
        # The uploads come before what failed after them. The group never sees an exception, which
        # it would wrap.
        await self._group.__aexit__(None, None, None)
        if self._failures:
            raise self._failures[min(self._failures)]
        return None

    async def wait_for_slot(self) -> bool:
        """Wait until another upload may begin; return False if one has failed."""
        await self._slots.acquire()
        return not self._failures

    def release_slot(self) -> None:
        """Give a slot back without an upload."""
        self._slots.release()

    def begin(self, index: int, upload: Callable[[], Awaitable[object]]) -> None:
        """Begin the upload of the batch at this index, in a slot."""
        self._group.start_soon(self._run, index, upload)

    async def pause(self, seconds: float) -> None:
        """Wait before another try of an upload.

        Raises:
            UploadAbandoned: another upload has failed.
        """
        scope = anyio.CancelScope()
        self._pauses.add(scope)
        try:
            with scope:
                if not self._failures:
                    await self._sleep(seconds)
        finally:
            self._pauses.discard(scope)
        if self._failures:
            raise UploadAbandoned

    async def _run(self, index: int, upload: Callable[[], Awaitable[object]]) -> None:
        try:
            await upload()
        except UploadAbandoned:
            pass
        except Exception as error:  # noqa: BLE001 - raised when the context is left
            self._failures[index] = error
            for scope in self._pauses:
                scope.cancel()
        finally:
            self._slots.release()
