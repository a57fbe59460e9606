"""Run an ASGI app with its lifespan in a separate thread, for a synchronous client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI

T = TypeVar("T")
BASE = "http://127.0.0.1:8000"


class LoopTransport(httpx.BaseTransport):
    """Transport to an app on the event loop of another thread."""

    def __init__(self, app: FastAPI, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return asyncio.run_coroutine_threadsafe(self._send(request), self._loop).result(60)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        request.read()
        response = await self._inner.handle_async_request(request)
        content = await response.aread()
        return httpx.Response(
            response.status_code, headers=response.headers, content=content, request=request
        )


@contextmanager
def serving(app: FastAPI) -> Iterator[httpx.Client]:
    """Run an app with its lifespan, and yield a client."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def call(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    lifespan = app.router.lifespan_context(app)
    try:
        call(lifespan.__aenter__())
        try:
            with httpx.Client(transport=LoopTransport(app, loop), base_url=BASE) as client:
                yield client
        finally:
            call(lifespan.__aexit__(None, None, None))
    finally:
        call(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def call_once(work: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine on a new event loop."""
    return asyncio.run(work)
