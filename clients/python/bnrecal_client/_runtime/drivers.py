"""The two shells around the core: they play plans with real requests and real pauses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO, TypeVar

import anyio
import anyio.to_thread
import httpx

from bnrecal_client._http.messages import FileBody, LinkBrokenError, Request, Response
from bnrecal_client._runtime.effects import Await, Call, Effect, Pause, Plan, Post, Pull, Send
from bnrecal_client._runtime.executors import Tasks, Threads
from bnrecal_client.errors import OptionError

__all__ = ["AsyncSleep", "Sleep", "play", "play_async"]

T = TypeVar("T")
Sleep = Callable[[float], None]
AsyncSleep = Callable[[float], Awaitable[None]]

_CHUNK_BYTES = 1 << 18


def play(plan: Plan[T], http: httpx.Client, sleep: Sleep) -> T:
    """Play a plan to its end. Whatever a step raises is raised inside the plan, at its place."""
    threads = Threads(partial(_send, http))
    try:
        effect = next(plan)
        while True:
            try:
                outcome = _perform(effect, http, sleep, threads)
            except BaseException as error:  # noqa: BLE001 - the plan decides, Ctrl-C included
                effect = plan.throw(error)
            else:
                effect = plan.send(outcome)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        plan.close()
        threads.close()


async def play_async(plan: Plan[T], http: httpx.AsyncClient, sleep: AsyncSleep) -> T:
    """Play a plan to its end on an event loop; slow steps run in a worker thread."""
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as group:
            try:
                return await _steps(plan, http, sleep, Tasks(partial(_send_async, http), group))
            except BaseException as error:
                failure = error  # the group wraps what passes through it
                raise
    except BaseException:
        if failure is None:
            raise
    assert failure is not None
    raise failure


async def _steps(plan: Plan[T], http: httpx.AsyncClient, sleep: AsyncSleep, tasks: Tasks) -> T:
    try:
        effect = next(plan)
        while True:
            try:
                outcome = await _perform_async(effect, http, sleep, tasks)
            except BaseException as error:  # noqa: BLE001 - the plan decides, cancellation included
                effect = plan.throw(error)
            else:
                effect = plan.send(outcome)
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        plan.close()


def _perform(effect: Effect, http: httpx.Client, sleep: Sleep, threads: Threads) -> object:
    match effect:
        case Send(request):
            return _send(http, request)
        case Await(seconds):
            return threads.arrived(seconds)
        case Call(function):
            return function()
        case Pull():
            return _pull(effect)
        case Post():
            threads.post(effect)
        case Pause(seconds):
            sleep(seconds)
    return None


async def _perform_async(
    effect: Effect, http: httpx.AsyncClient, sleep: AsyncSleep, tasks: Tasks
) -> object:
    match effect:
        case Send(request):
            return await _send_async(http, request)
        case Await(seconds):
            return await tasks.arrived(seconds)
        case Call(function):
            return await anyio.to_thread.run_sync(function)
        case Pull():
            return await _pull_async(effect)
        case Post():
            tasks.post(effect)
        case Pause(seconds):
            await sleep(seconds)
    return None


def _pull(effect: Pull) -> object:
    if isinstance(effect.items, Iterator):
        return next(effect.items, effect.end)
    raise OptionError("an asynchronous iterable of batches needs AsyncClient")


async def _pull_async(effect: Pull) -> object:
    items, end = effect.items, effect.end
    if isinstance(items, AsyncIterator):
        return await anext(items, end)
    return await anyio.to_thread.run_sync(lambda: next(items, end))


def _send(http: httpx.Client, request: Request) -> Response:
    with _foreign_errors():
        if not isinstance(request.body, FileBody):
            return _whole(http.send(_build(request, http, request.body)))
        with request.body.path.open("rb") as file:
            return _whole(http.send(_build(request, http, file)))


async def _send_async(http: httpx.AsyncClient, request: Request) -> Response:
    with _foreign_errors():
        body = request.body
        content = _chunks(body) if isinstance(body, FileBody) else body
        return _whole(await http.send(_build(request, http, content)))


def _build(
    request: Request,
    http: httpx.Client | httpx.AsyncClient,
    content: bytes | BinaryIO | AsyncIterator[bytes] | None,
) -> httpx.Request:
    headers = dict(request.headers)
    if isinstance(request.body, FileBody):
        # Said beforehand, so that the server can refuse a size before the bytes flow.
        headers["Content-Length"] = str(request.body.bytes)
    return http.build_request(
        request.method, request.path, params=request.params, headers=headers, content=content
    )


async def _chunks(body: FileBody) -> AsyncIterator[bytes]:
    async with await anyio.open_file(body.path, "rb") as file:
        while chunk := await file.read(_CHUNK_BYTES):
            yield chunk


def _whole(response: httpx.Response) -> Response:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(status=response.status_code, headers=headers, body=response.content)


@contextmanager
def _foreign_errors() -> Iterator[None]:
    """Translate httpx's errors, once: what another try may mend, and what it cannot."""
    try:
        yield
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError) as error:
        raise OptionError(f"the request cannot be sent: {error}") from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise LinkBrokenError(str(error) or type(error).__name__) from error
