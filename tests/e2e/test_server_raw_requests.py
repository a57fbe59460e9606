"""Malformed requests on a real socket: rejected as problem documents, with bounded memory."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.service_process import Server, running
from tests.support.waiting import until

HEAD = b"POST /v1/recalibrations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("raw") / "data") as found:
        yield found


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a short timeout for headers and bodies."""
    with running(tmp_path_factory.mktemp("impatient") / "data", body_idle_seconds=1.0) as found:
        yield found


def connect(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 0), timeout=60)


def exchange(server: Server, *parts: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Send bytes; return status, headers and problem of the response before the server closes."""
    found = b""
    with connect(server) as opened:
        try:
            for part in parts:
                opened.sendall(part)
        except OSError:
            found = b""  # already rejected; the response is still readable
        try:
            while chunk := opened.recv(1 << 16):
                found += chunk
        except ConnectionResetError:
            assert found
    head, _, body = found.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.lower().split(": ", 1) for field in fields)
    return int(line.split()[1]), headers, json.loads(body)


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"BREW /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n",
        HEAD + b"Content-Length: abc\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",  # smuggling
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n",
        b"GET /" + b"x" * 66_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_malformed_request_closes_connection(server: Server, sent: bytes) -> None:
    status, headers, problem = exchange(server, sent)
    assert (status, problem["code"], problem["status"]) == (400, "request-malformed", 400)
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"
    assert problem["error"] == problem["detail"] != ""
    assert problem["instance"] == f"urn:bnrecal:request:{headers['x-request-id']}"


@pytest.mark.parametrize(
    "start",
    [
        b"GET /",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ",
        b"GET /healthz HTTP/1.1\r\nX",
        CHUNKED + b"2;",  # chunk extension
        CHUNKED + b"2\r\n{}\r\n0\r\nX: ",  # trailer
    ],
)
def test_endless_header_is_rejected(server: Server, start: bytes) -> None:
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss
    status, _, problem = exchange(server, start, *[b"y" * MIB] * 64)
    assert (status, problem["code"]) == (431, "header-too-large")
    assert process.memory_info().rss - before < 16 * MIB


def test_large_body_after_small_header(server: Server) -> None:
    body = b" " * (MIB // 2)
    for sent in (
        HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
        CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        + b"1\r\n \r\n" * 50_000
        + b"0\r\n\r\n",
    ):
        status, _, problem = exchange(server, sent)
        assert (status, problem["code"]) == (422, "request-invalid")


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"])
def test_header_timeout(impatient: Server, sent: bytes) -> None:
    status, _, problem = exchange(impatient, sent)
    assert (status, problem["code"], problem["retryable"]) == (408, "header-timeout", True)


def test_header_timeout_of_second_request(impatient: Server) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(impatient) as opened:
        for _ in range(2):
            opened.sendall(whole)
            found = b""
            while not found.endswith(b"}"):
                found += opened.recv(1 << 16)
            assert found.startswith(b"HTTP/1.1 200 ")
        opened.sendall(whole[:-1])
        assert opened.recv(1 << 16).startswith(b"HTTP/1.1 408 ")


def test_remaining_body_of_rejected_request(impatient: Server) -> None:
    with connect(impatient) as opened:
        opened.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n")
        while not opened.recv(1 << 16).endswith(b"}"):
            pass

        def is_closed() -> bool:
            try:
                opened.sendall(b"x")
            except ConnectionError:
                return True
            return False

        until(is_closed, lambda: "the connection is still open", pause=0.05)


def test_pipelined_requests(server: Server) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    found = b""
    with connect(server) as opened:
        opened.sendall(whole * 20)
        while found.count(b'{"status":"ok"}') < 20:
            found += opened.recv(1 << 16)


def test_websocket_upgrade_is_ignored(server: Server) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    response = server.http.get("/healthz", headers=upgrade | {"Sec-WebSocket-Key": "AAAA"})
    assert response.json() == {"status": "ok"}


def test_duplicate_host_headers(server: Server) -> None:
    for hosts in (b"Host: localhost\r\nHost: evil\r\n", b"Host: evil\r\nHost: localhost\r\n"):
        sent = b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n" + hosts + b"\r\n"
        status, _, problem = exchange(server, sent)
        assert (status, problem["code"]) == (403, "host-refused")
