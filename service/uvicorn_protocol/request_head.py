"""Limits on the header of a request, and problem documents for malformed requests.

A connection has no route, no caller and no limits yet, so time and size are bounded here.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service import problems
from service.telemetry.logs import choose_request_id
from service.uvicorn_protocol.write_coalescing import WriteCoalescingTransport
from service.web.problem_responses import URN, respond

_log = logging.getLogger(__name__)
# Bytes that a connection may send without completing a header or delivering a part of a body:
# request line and headers, chunk headers, trailers. Other servers allow 8 to 64 KiB.
MAX_HEADER_BYTES = 64 << 10


class HeaderLimitsProtocol(HttpToolsProtocol):
    """The protocol of one connection.

    Attributes:
        header_seconds: how long the header of a request may take, from the start of the connection
            or the end of the previous response.
    """

    header_seconds: ClassVar[float] = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._in_header = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first header."""
        super().connection_made(cast("asyncio.Transport", WriteCoalescingTransport(transport)))
        self._expect_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer."""
        self._header_complete()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse data; close the connection if the header is too large."""
        self._header_bytes += len(data)
        super().data_received(data)
        if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._reject(
                "header-too-large", f"a request header has at most {MAX_HEADER_BYTES} bytes"
            )

    def on_message_begin(self) -> None:
        """Start the timer of a new header."""
        super().on_message_begin()
        self._in_header = True
        self._expect_header()

    def on_headers_complete(self) -> None:
        """Stop the timer and process the request."""
        self._header_bytes = 0
        self._in_header = False
        self._header_complete()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Reset the count of header bytes for a part of a body."""
        self._header_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Reset the count of header bytes at the end of a request."""
        self._header_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next header, even while the rest of the request's body still arrives."""
        idle = not self.pipeline
        super().on_response_complete()
        if idle and not self.transport.is_closing():
            self._expect_header()

    def send_400_response(self, msg: str) -> None:
        """Reject a malformed request with a problem document."""
        del msg  # always "Invalid HTTP request received."
        self._reject("request-malformed", "the data received is not a valid HTTP/1.1 request")

    def _expect_header(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self._on_timeout)

    def _header_complete(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_timeout(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._in_header or self.cycle is None:
            self._reject(
                "header-timeout", f"no complete request header arrived in {self.header_seconds:g} s"
            )
        else:  # an idle connection: there is no request to respond to
            self.transport.close()

    def _reject(self, code: str, detail: str) -> None:
        """Respond and close the connection; only close it if another response has started."""
        request_id = choose_request_id(None)
        _log.info(
            "A connection was closed: %s",
            detail,
            extra={"action": "connection-refused", "code": code, "request_id": request_id},
        )
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_response(code, detail, request_id))
        self.transport.close()


def _response(code: str, detail: str, request_id: str) -> bytes:
    """Return a complete response."""
    response = respond(problems.document(code, detail, instance=f"{URN}{request_id}"))
    response.headers["Connection"] = "close"
    status = HTTPStatus(response.status_code)
    head = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
    line = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    return line + head + b"\r\n" + bytes(response.body)
