"""Run an ASGI app with its lifespan in a separate thread, for a synchronous client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import httpx
from fastapi import FastAPI
from starlette.types import Message, Scope

T = TypeVar("T")
BASE = "http://127.0.0.1:8000"


class LoopTransport(httpx.BaseTransport):
    """Transport to an app on the event loop of another thread."""

    def __init__(self, app: FastAPI, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._inner = httpx.ASGITransport(app, raise_app_exceptions=False)
        self._loop = loop

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return asyncio.run_coroutine_threadsafe(self._send(request), self._loop).result(60)

    def stream(self, request: httpx.Request, chunks: list[bytes]) -> None:
        """Send a request, and append each part of the response's body as it arrives."""
        asyncio.run_coroutine_threadsafe(self._stream(request, chunks), self._loop).result(60)

    async def _stream(self, request: httpx.Request, chunks: list[bytes]) -> None:
        url = request.url
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path,
            "query_string": url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (url.host, url.port),
            "client": ("127.0.0.1", 1),
        }
        requests: asyncio.Queue[Message] = asyncio.Queue()
        requests.put_nowait({"type": "http.request", "body": b"", "more_body": False})

        async def send(message: Message) -> None:
            chunks.append(message.get("body", b""))

        await self._app(scope, requests.get, send)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        request.read()
        response = await self._inner.handle_async_request(request)
        # Raw: the outer response decodes the content, as a client of a real server does.
        content = b"".join([block async for block in response.aiter_raw()])
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
