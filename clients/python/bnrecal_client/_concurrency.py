"""How the coroutines of a client run: in an event loop, or blocking the calling thread.

Both clients run the same coroutines, and differ in their `Runtime`. With `EventLoop`, for
`AsyncClient`, a coroutine suspends where it waits. With `Blocking`, for `Client`, whatever it
awaits blocks the thread and then returns, so `run_blocking` runs it like a function. That costs
half the processor time per request that an event loop in another thread costs.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import anyio
import anyio.to_thread

__all__ = ["Blocking", "EventLoop", "Runtime", "Sleep", "Uploads", "run_blocking"]

T = TypeVar("T")
ArgumentT = TypeVar("ArgumentT")
Sleep = Callable[[float], Awaitable[None]]
Upload = Callable[[], Coroutine[Any, Any, None]]

# Windows delivers Ctrl-C only between two waits.
_MAX_WAIT_S = 1.0


class UploadAbandoned(Exception):  # noqa: N818 - a signal inside this module
    """An upload is not retried, because another upload has failed."""


class Uploads(Protocol):
    """Uploads that run at the same time; an asynchronous context manager.

    After a failure no further upload begins, and those in progress end without another try. On
    leaving the context, all uploads have ended, and the first failure in the order of the stream is
    raised, as if the uploads had run one after another. An exception that is no `Exception`, such
    as Ctrl-C or a cancellation, leaves the context at once.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...

    async def wait_for_slot(self) -> bool:
        """Wait until another upload may begin; return False if one has failed."""
        ...

    def begin(self, index: int, upload: Upload, then: Callable[[], None]) -> None:
        """Begin the upload of the batch at this index, after `wait_for_slot`.

        Args:
            index: the batch's index.
            upload: returns the coroutine of the upload.
            then: is called in the caller's thread when the upload has succeeded.
        """

    def in_caller(self, callback: Callable[[ArgumentT], None]) -> Callable[[ArgumentT], None]:
        """Return a function for uploads that calls the callback in the caller's thread."""
        ...

    async def pause(self, seconds: float) -> None:
        """Wait before another try of an upload.

        Raises:
            UploadAbandoned: another upload has failed.
        """


class Runtime(Protocol):
    """How the coroutines of one client wait, and where the caller's own code runs."""

    async def run(self, function: Callable[[], T]) -> T:
        """Return the value of the caller's own function, or of another that may take long."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for a number of seconds."""

    def uploads(self, limit: int) -> Uploads:
        """Return a context for at most `limit` uploads at the same time."""
        ...


class EventLoop:
    """Suspends coroutines in asyncio or trio; slow functions run in worker threads."""

    def __init__(self, sleep: Sleep) -> None:
        self._sleep = sleep

    async def run(self, function: Callable[[], T]) -> T:
        return await anyio.to_thread.run_sync(function)

    async def sleep(self, seconds: float) -> None:
        await self._sleep(seconds)

    def uploads(self, limit: int) -> Uploads:
        return _TaskUploads(limit, self._sleep)


class Blocking:
    """Blocks the calling thread, in which all functions and callbacks run."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep = sleep

    async def run(self, function: Callable[[], T]) -> T:
        return function()

    async def sleep(self, seconds: float) -> None:
        self._sleep(seconds)

    def uploads(self, limit: int) -> Uploads:
        return _ThreadUploads(limit, self._sleep)


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, because its runtime is `Blocking`; return its value."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    coroutine.close()
    raise AssertionError(f"{coroutine!r} was suspended without an event loop")


class _TaskUploads:
    """One task for each upload.

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
        interrupted = error is not None and not isinstance(error, Exception)
        if interrupted:
            self._group.cancel_scope.cancel()
        # The uploads come before what failed after them. The group never sees an exception, which
        # it would wrap.
        await self._group.__aexit__(None, None, None)
        if self._failures and not interrupted:
            raise self._failures[min(self._failures)]
        return None

    async def wait_for_slot(self) -> bool:
        async with self._slots:
            return not self._failures

    def begin(self, index: int, upload: Upload, then: Callable[[], None]) -> None:
        self._slots.acquire_nowait()
        self._group.start_soon(self._run, index, upload, then)

    def in_caller(self, callback: Callable[[ArgumentT], None]) -> Callable[[ArgumentT], None]:
        return callback

    async def pause(self, seconds: float) -> None:
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

    async def _run(self, index: int, upload: Upload, then: Callable[[], None]) -> None:
        try:
            await upload()
            then()
        except UploadAbandoned:
            pass
        except Exception as error:  # noqa: BLE001 - raised when the context is left
            self._failures[index] = error
            for scope in self._pauses:
                scope.cancel()
        finally:
            self._slots.release()


class _ThreadUploads:
    """Threads that take uploads from a queue; a single upload at a time runs in the caller's.

    They are daemons: after Ctrl-C nothing waits for a response that may take minutes. A request
    in progress then ends with its response or at its time limit.

    Args:
        limit: most uploads in progress, and most threads.
        sleep: waits for a number of seconds.
    """

    def __init__(self, limit: int, sleep: Callable[[float], None]) -> None:
        self._limit = limit
        self._sleep = sleep
        self._begun: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._failures: dict[int, Exception] = {}
        self._abandoned = threading.Event()
        # What other threads want to be run in the caller's, which alone changes what follows.
        self._messages: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._threads = 0
        self._in_progress = 0
        self._pausing = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if error is not None and not isinstance(error, Exception):
                return
            self._wait_for_all()
        finally:
            self._abandoned.set()
            for _ in range(self._threads):
                self._begun.put(None)
        if self._failures:
            raise self._failures[min(self._failures)]

    async def wait_for_slot(self) -> bool:
        while self._in_progress == self._limit or not self._messages.empty():
            self._handle_message()
        return not self._failures

    def begin(self, index: int, upload: Upload, then: Callable[[], None]) -> None:
        self._in_progress += 1
        work = partial(self._run, index, upload, then)
        if self._limit == 1:
            work()
            return
        self._begun.put(work)
        if self._in_progress > self._threads:
            self._threads += 1
            threading.Thread(target=self._work, name="bnrecal-client", daemon=True).start()

    def in_caller(self, callback: Callable[[ArgumentT], None]) -> Callable[[ArgumentT], None]:
        if self._limit == 1:
            return callback
        return lambda argument: self._messages.put(partial(callback, argument))

    async def pause(self, seconds: float) -> None:
        if not self._abandoned.is_set():
            self._messages.put(partial(self._count_pausing, 1))
            self._sleep(seconds)
            self._messages.put(partial(self._count_pausing, -1))
        if self._abandoned.is_set():
            raise UploadAbandoned

    def _work(self) -> None:
        while (work := self._begun.get()) is not None:
            work()

    def _run(self, index: int, upload: Upload, then: Callable[[], None]) -> None:
        succeeded = False
        try:
            run_blocking(upload())
            succeeded = True
        except UploadAbandoned:
            pass
        except Exception as error:  # noqa: BLE001 - raised when the context is left
            self._failures[index] = error
            self._abandoned.set()
        finally:
            self._messages.put(partial(self._end, then if succeeded else None))

    def _end(self, then: Callable[[], None] | None) -> None:
        self._in_progress -= 1
        if then is not None:
            then()

    def _count_pausing(self, change: int) -> None:
        self._pausing += change

    def _wait_for_all(self) -> None:
        """Wait until all uploads have ended; those that pause before a try do not make another."""
        while self._in_progress > (self._pausing if self._failures else 0):
            self._handle_message()

    def _handle_message(self) -> None:
        try:
            message = self._messages.get(timeout=_MAX_WAIT_S)
        except Empty:
            return
        message()
