"""More connections than the limit, on real sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.support.service_process import Server, network, running
from tests.support.waiting import until

MAX_CONNECTIONS = 4
STALL_SECONDS = 3.0
GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
BUSY = (
    b"POST /v1/recalibrations HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 99\r\n\r\n"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data: Path = tmp_path_factory.mktemp("limited") / "data"
    with running(data, max_connections=MAX_CONNECTIONS) as found:
        yield found


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a short timeout for clients that stop reading."""
    data: Path = tmp_path_factory.mktemp("impatient") / "data"
    with running(data, body_idle_seconds=STALL_SECONDS) as found:
        yield found


def connect(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 0), timeout=60)


def ask(opened: socket.socket, path: bytes) -> bytes:
    """Send a request and return its small response."""
    opened.sendall(GET % path)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while not found.endswith(b"}") and (chunk := opened.recv(1 << 16)):
            found += chunk
    return found


def has_connection(server: Server, opened: socket.socket) -> bool:
    """Return whether the server has the other end of a connection open."""
    port = opened.getsockname()[1]
    found = psutil.Process(server.process.pid).net_connections()
    return any(one.raddr[1:2] == (port,) for one in found)


def is_open(opened: socket.socket) -> bool:
    opened.settimeout(0.5)
    try:
        return opened.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


def open_requests(server: Server) -> int:
    """Return the number of requests in progress, including the one for the metrics."""
    text = server.http.get("/metrics").text
    (line,) = (one for one in text.splitlines() if one.startswith("bnrecal_requests_open "))
    return int(float(line.split()[1]))


def test_longest_idle_connection_is_evicted(server: Server) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(server)) for _ in range(MAX_CONNECTIONS)]
        for one in opened:
            assert ask(one, b"/healthz").startswith(b"HTTP/1.1 200 ")
        assert ask(opened[0], b"/healthz").startswith(b"HTTP/1.1 200 ")
        late = stack.enter_context(connect(server))
        assert ask(late, b"/v1/models").startswith(b"HTTP/1.1 200 ")
        # The first was used again, so the second has been idle longest.
        assert [is_open(one) for one in opened] == [True, False, True, True]


def test_only_probes_are_served_when_all_are_busy(server: Server) -> None:
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(server)) for _ in range(MAX_CONNECTIONS)]
        for one in busy:
            one.sendall(BUSY)
            # Sent when the request is processed and its body is read.
            assert one.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        silent = [stack.enter_context(connect(server)) for _ in range(60)]
        probe = stack.enter_context(connect(server))
        assert ask(probe, b"/healthz").startswith(b"HTTP/1.1 200 ")
        assert ask(probe, b"/v2/health/live").startswith(b"HTTP/1.1 200 ")
        refused = ask(probe, b"/v1/models")
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b'"code":"overloaded"' in refused
        assert b"\r\nretry-after: 1\r\n" in refused.lower()
        assert b"\r\nconnection: close\r\n" in refused.lower()
        found = psutil.Process(server.process.pid).net_connections()
        held = [one for one in found if one.status == psutil.CONN_ESTABLISHED]
        assert len(held) <= MAX_CONNECTIONS + 16
        assert len(silent) > 16
        # No busy connection was closed.
        for one in busy:
            one.sendall(b" " * 99)
            assert one.recv(1 << 16).startswith(b"HTTP/1.1 422 ")


def test_disconnected_waiter_frees_its_slot(server: Server) -> None:
    name = server.api.open(network())
    for _ in range(3):
        with ExitStack() as stack:
            for one in [stack.enter_context(connect(server)) for _ in range(MAX_CONNECTIONS - 1)]:
                one.sendall(GET % f"/v1/recalibrations/{name}?wait=20".encode())
            until(lambda: open_requests(server) == MAX_CONNECTIONS)
        # Long before the waits would end by themselves.
        until(lambda: open_requests(server) == 1, seconds=15)
        assert server.http.get("/v1/models").status_code == 200


def test_client_that_stops_reading_is_disconnected(impatient: Server) -> None:
    size = len(impatient.http.get("/openapi.json").content)
    with connect(impatient) as opened:
        until(lambda: has_connection(impatient, opened))
        opened.sendall(GET % b"/openapi.json" * 300)
        until(lambda: not has_connection(impatient, opened))
        found = 0
        with contextlib.suppress(ConnectionResetError):
            while chunk := opened.recv(1 << 20):
                found += len(chunk)
    assert 0 < found < 300 * size


def test_slow_reader_gets_complete_response(impatient: Server) -> None:
    size = len(impatient.http.get("/openapi.json").content)
    # A busy machine may pause this process for longer than a reader may pause.
    tries = (read_slowly(impatient) for _ in range(5))
    found = next(found for found, pause in tries if pause < STALL_SECONDS)
    assert found > 100 * size


def read_slowly(server: Server) -> tuple[int, float]:
    """Request 100 responses and read them with pauses, for longer than a client may stop reading.

    Returns:
        The bytes read, and the longest time between two reads in seconds.
    """
    last = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    found, longest = 0, 0.0
    with connect(server) as opened, contextlib.suppress(ConnectionResetError):
        opened.sendall(GET % b"/openapi.json" * 99 + last)
        began = read = time.monotonic()
        while read < began + 1.3 * STALL_SECONDS:
            time.sleep(STALL_SECONDS / 6)
            found += len(opened.recv(1 << 19))
            before, read = read, time.monotonic()
            longest = max(longest, read - before)
        while chunk := opened.recv(1 << 20):
            found += len(chunk)
    return found, longest
