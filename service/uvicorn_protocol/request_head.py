"""Requests that are no requests: refused at the socket, in the one shape of errors.

uvicorn answers bytes that its parser refuses with plain text, waits for ever for the rest of a
request's head, and keeps a head of any size in memory. What comes here has no route, no caller and
no limit yet, so all of it is bounded before anything else looks at it.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service import problems
from service.telemetry import request_ids
from service.uvicorn_protocol.write_coalescing import JoinedWrites
from service.web.problem_responses import URN, respond

_log = logging.getLogger(__name__)
# What a connection may send without a word of a body coming out of it: request line and headers,
# the lines around chunks, trailers. Other servers allow 8 to 64 KiB.
SILENT_BYTES = 64 << 10


class StrictProtocol(HttpToolsProtocol):
    """One connection.

    Attributes:
        head_seconds: how long a request's head may take, from the beginning of the connection or
            the end of the last answer on.
    """

    head_seconds: ClassVar[float] = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._silent = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._head_begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and wait for the first head."""
        super().connection_made(cast("asyncio.Transport", JoinedWrites(transport)))
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless too much has come to nothing."""
        self._silent += len(data)
        super().data_received(data)
        if self._silent > SILENT_BYTES and not self.transport.is_closing():
            self._refuse("head-too-large", f"a request's head has at most {SILENT_BYTES} bytes")

    def on_message_begin(self) -> None:
        """Note a new request."""
        super().on_message_begin()
        self._head_begun = True
        self._expect_head()

    def on_headers_complete(self) -> None:
        """Pass a request on."""
        self._silent = 0
        self._head_begun = False
        self._head_is_there()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Pass a part of a body on."""
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a body."""
        self._silent = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next head, even while the rest of an answered body still drips in."""
        idle = not self.pipeline
        super().on_response_complete()
        if idle and not self.transport.is_closing():
            self._expect_head()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        del msg  # "Invalid HTTP request received.", always
        self._refuse("request-malformed", "what came is no HTTP/1.1 request")

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.head_seconds, self._too_late)

    def _head_is_there(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._head_begun or self.cycle is None:
            self._refuse("head-slow", f"no request's head came within {self.head_seconds:g} s")
        else:  # nothing is asked that could be answered
            self.transport.close()

    def _refuse(self, code: str, detail: str) -> None:
        """Answer and hang up; where an answer is under way already, only hang up."""
        request_id = request_ids.choose(None)
        _log.info(
            "A connection was closed: %s",
            detail,
            extra={"action": "connection-refused", "code": code, "request_id": request_id},
        )
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request
        if cycle is None or cycle.response_complete or not cycle.response_started:
            self.transport.write(_answer(code, detail, request_id))
        self.transport.close()


def _answer(code: str, detail: str, request_id: str) -> bytes:
    """Write a whole response."""
    response = respond(problems.document(code, detail, instance=f"{URN}{request_id}"))
    response.headers["Connection"] = "close"
    status = HTTPStatus(response.status_code)
    head = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
    line = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    return line + head + b"\r\n" + bytes(response.body)
