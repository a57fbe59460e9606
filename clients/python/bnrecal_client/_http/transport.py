"""One try of a request, over httpx."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import anyio
import httpx

from bnrecal_client._http.messages import FileBody, Request, Response, TransportFailed
from bnrecal_client.errors import OptionError
from bnrecal_client.retry_policy import RetryPolicy

__all__ = ["Transport"]

_CHUNK_BYTES = 1 << 18


class Transport:
    """The connections to one server.

    Args:
        url: the server's address.
        token: sent as a bearer token; None for none.
        retry: the time limits of one try.
        transport: replaces the network.

    Attributes:
        url: the address without a trailing slash.

    Raises:
        OptionError: the address or the token is invalid.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        retry: RetryPolicy,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self.url = _server_url(url)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=_headers(token),
            timeout=httpx.Timeout(retry.read_timeout, connect=retry.connect_timeout),
            transport=transport,
        )

    async def send(self, request: Request) -> Response:
        """Send a request once.

        Raises:
            TransportFailed: there was no complete response.
            OptionError: the request cannot be sent at all.
        """
        headers = dict(request.headers)
        content: bytes | AsyncIterator[bytes] | None
        if isinstance(request.body, FileBody):
            # Announced first, so that the server can reject a size before any byte is sent.
            headers["Content-Length"] = str(request.body.bytes)
            content = _chunks(request.body)
        else:
            content = request.body
        try:
            response = await self._http.request(
                request.method,
                request.path,
                params=request.params,
                headers=headers,
                content=content,
            )
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError) as error:
            raise OptionError(f"the request cannot be sent: {error}") from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise TransportFailed(str(error) or type(error).__name__) from error
        return Response(
            status=response.status_code,
            headers={name.lower(): value for name, value in response.headers.items()},
            body=response.content,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _server_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise OptionError(
            f"the server address {url!r} is invalid; write it like http://127.0.0.1:8000"
        )
    return url.rstrip("/")


def _headers(token: str | None) -> dict[str, str]:
    common = {"User-Agent": "bnrecal-client", "Accept": "application/json"}
    if token is None:
        return common
    if not (token.isascii() and token.isprintable() and token.strip() == token and token):
        raise OptionError("the token is empty or holds characters that a header cannot carry")
    return {**common, "Authorization": f"Bearer {token}"}


async def _chunks(body: FileBody) -> AsyncIterator[bytes]:
    async with await anyio.open_file(body.path, "rb") as file:
        while chunk := await file.read(_CHUNK_BYTES):
            yield chunk
