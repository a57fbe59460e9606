"""One try of a request, over httpx."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import urlsplit

import anyio
import httpx

from bnrecal_client._http.environment import SERVER_VARIABLE, config_file, find_server
from bnrecal_client._http.messages import FileBody, Request, Response, TransportFailed
from bnrecal_client._http.retry import RetryPolicy
from bnrecal_client.errors import OptionError

__all__ = ["AsyncTransport", "BlockingTransport", "Server", "Transport", "connection"]

_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where requests are sent to, and what all of them carry.

    Attributes:
        url: the address without a trailing slash.
        headers: the headers of every request.
        timeout: the time limits of one try.
        verify: whether certificates are checked, or how.
        proxy: the URL of a proxy; None for that of the environment.
    """

    url: str
    headers: dict[str, str] = field(repr=False)
    timeout: httpx.Timeout
    verify: bool | ssl.SSLContext = True
    proxy: str | None = None

    @classmethod
    def of(cls, url: str, token: str | None, retry: RetryPolicy) -> Server:
        """Check an address and a token.

        Args:
            url: the server's address.
            token: sent as a bearer token; None for none.
            retry: the time limits of one try.

        Raises:
            OptionError: the address or the token is invalid.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise OptionError(
                f"the server address {url!r} is invalid; write it like http://127.0.0.1:8000"
            )
        timeout = httpx.Timeout(retry.read_timeout, connect=retry.connect_timeout)
        return cls(url=url.rstrip("/"), headers=_headers(token), timeout=timeout)

    def options(self) -> dict[str, Any]:
        """Return the arguments of an httpx client."""
        return {
            "headers": self.headers,
            "timeout": self.timeout,
            "verify": self.verify,
            "proxy": self.proxy,
        }

    def arguments(self, request: Request) -> dict[str, Any]:
        """Return the arguments of httpx's `request`, except for the content."""
        headers = dict(request.headers)
        if isinstance(request.body, FileBody):
            # Announced first, so that the server can reject a size before any byte is sent.
            headers["Content-Length"] = str(request.body.bytes)
        # httpx parses the address once more for each of a base URL and parameters, even if empty.
        return {
            "method": request.method,
            "url": self.url + request.path,
            "params": request.params or None,
            "headers": headers,
        }


def connection(
    url: str | None,
    token: str | None,
    *,
    retry: RetryPolicy | None,
    timeout: float | None,
    verify: bool | ssl.SSLContext,
    proxy: str | None,
    headers: Mapping[str, str] | None,
) -> tuple[Server, RetryPolicy]:
    """Return the server and the time limits that the arguments of a client describe.

    Raises:
        OptionError: no server is named, or an argument is invalid.
    """
    found = find_server(url, token)
    if found is None:
        raise OptionError(
            f"no server is named: pass its address, set {SERVER_VARIABLE}, or write "
            f'server = "URL" to {config_file()}'
        )
    policy = retry or RetryPolicy()
    for name in ("total_timeout", "initial_timeout", "connect_timeout", "read_timeout"):
        if not getattr(policy, name) >= 0:
            raise OptionError(f"retry: {name} is {getattr(policy, name)!r}, expected at least 0 s")
    if retry is None and found.retry_timeout is not None:
        policy = replace(policy, total_timeout=found.retry_timeout)
    if timeout is not None:
        if not 0 < timeout < math.inf:
            raise OptionError(f"timeout is {timeout!r}: give a number of seconds above 0")
        policy = replace(policy, read_timeout=timeout)
    server = Server.of(found.url, found.token, policy)
    more = {str(name): str(value) for name, value in (headers or {}).items()}
    return replace(server, headers={**server.headers, **more}, verify=verify, proxy=proxy), policy


class Transport(Protocol):
    """The connections to one server."""

    async def send(self, request: Request) -> Response:
        """Send a request once.

        Raises:
            TransportFailed: there was no complete response.
            OptionError: the request cannot be sent at all.
        """
        ...

    async def stream(self, request: Request, on_line: Callable[[str], None]) -> Response:
        """Send a request once, and pass on each line of a response of status 200 as it arrives.

        Returns:
            The response; without its body where lines were passed on.

        Raises:
            TransportFailed, OptionError: see `send`.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""


class AsyncTransport:
    """Sends requests from an event loop.

    Args:
        server: the server.
        network: replaces the network; None for the real one.
    """

    def __init__(self, server: Server, network: httpx.AsyncBaseTransport | None) -> None:
        self._arguments = server.arguments
        with _option_errors():
            self._http = httpx.AsyncClient(**server.options(), transport=network)

    async def send(self, request: Request) -> Response:
        body = request.body
        content = _chunks(body) if isinstance(body, FileBody) else body
        with _translated_errors():
            return _read(await self._http.request(**self._arguments(request), content=content))

    async def stream(self, request: Request, on_line: Callable[[str], None]) -> Response:
        arguments = self._arguments(request)
        with _translated_errors():
            async with self._http.stream(**arguments, content=_in_memory(request)) as response:
                if response.status_code != HTTPStatus.OK:
                    await response.aread()
                    return _read(response)
                async for line in response.aiter_lines():
                    on_line(line)
                return _read(response, body=b"")

    async def close(self) -> None:
        await self._http.aclose()


class BlockingTransport:
    """Sends requests from the calling thread, which it blocks.

    Args:
        server: the server.
        network: replaces the network; None for the real one.
    """

    def __init__(self, server: Server, network: httpx.BaseTransport | None) -> None:
        self._arguments = server.arguments
        with _option_errors():
            self._http = httpx.Client(**server.options(), transport=network)

    async def send(self, request: Request) -> Response:
        with _translated_errors():
            if not isinstance(request.body, FileBody):
                return _read(self._http.request(**self._arguments(request), content=request.body))
            with request.body.path.open("rb") as file:
                return _read(self._http.request(**self._arguments(request), content=file))

    async def stream(self, request: Request, on_line: Callable[[str], None]) -> Response:
        arguments = self._arguments(request)
        with (
            _translated_errors(),
            self._http.stream(**arguments, content=_in_memory(request)) as response,
        ):
            if response.status_code != HTTPStatus.OK:
                response.read()
                return _read(response)
            for line in response.iter_lines():
                on_line(line)
            return _read(response, body=b"")

    async def close(self) -> None:
        self._http.close()


def _in_memory(request: Request) -> bytes | None:
    """Return the body of a request without a file."""
    assert not isinstance(request.body, FileBody)
    return request.body


def _headers(token: str | None) -> dict[str, str]:
    common = {"User-Agent": "bnrecal-client", "Accept": "application/json"}
    if token is None:
        return common
    if not (token.isascii() and token.isprintable() and token.strip() == token and token):
        raise OptionError("the token is empty or holds characters that a header cannot carry")
    return {**common, "Authorization": f"Bearer {token}"}


def _read(response: httpx.Response, *, body: bytes | None = None) -> Response:
    return Response(
        status=response.status_code,
        headers={
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in response.headers.raw
        },
        body=response.content if body is None else body,
    )


@contextmanager
def _option_errors() -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, httpx.InvalidURL, ImportError, OSError) as error:
        raise OptionError(f"the connection cannot be prepared: {error}") from error


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError) as error:
        raise OptionError(f"the request cannot be sent: {error}") from error
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise TransportFailed(str(error) or type(error).__name__) from error


async def _chunks(body: FileBody) -> AsyncIterator[bytes]:
    async with await anyio.open_file(body.path, "rb") as file:
        while chunk := await file.read(_CHUNK_BYTES):
            yield chunk
