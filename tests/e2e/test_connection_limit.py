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

MOST = 4
GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
BUSY = (
    b"POST /v1/recalibrations HTTP/1.1\r\nHost: localhost\r\n"
    b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data: Path = tmp_path_factory.mktemp("crowd") / "data"
    with running(data, max_connections=MOST, body_idle_seconds=3.0) as found:
        yield found


def connect(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    assert address.hostname is not None
    return socket.create_connection((address.hostname, address.port or 0), timeout=10)


def ask(opened: socket.socket, path: bytes) -> bytes:
    """Send a request and return its small response."""
    opened.sendall(GET % path)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while not found.endswith(b"}") and (chunk := opened.recv(1 << 16)):
            found += chunk
    return found


def is_open(opened: socket.socket) -> bool:
    opened.settimeout(0.5)
    try:
        return opened.recv(1) != b""
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False


def test_longest_idle_connection_is_evicted(server: Server) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(connect(server)) for _ in range(MOST)]
        for one in opened:
            assert ask(one, b"/healthz").startswith(b"HTTP/1.1 200 ")
        assert ask(opened[0], b"/healthz").startswith(b"HTTP/1.1 200 ")
        late = stack.enter_context(connect(server))
        assert ask(late, b"/v1/models").startswith(b"HTTP/1.1 200 ")
        # The first was used again, so the second has been idle longest.
        assert [is_open(one) for one in opened] == [True, False, True, True]


def test_only_probes_are_served_when_all_are_busy(server: Server) -> None:
    with ExitStack() as stack:
        busy = [stack.enter_context(connect(server)) for _ in range(MOST)]
        for one in busy:
            one.sendall(BUSY)
        time.sleep(0.3)
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
        assert len(held) <= MOST + 16
        assert len(silent) > 16
        # No busy connection was closed.
        for one in busy:
            one.sendall(b" " * 98)
            assert one.recv(1 << 16).startswith(b"HTTP/1.1 422 ")


def test_disconnected_waiter_frees_its_slot(server: Server) -> None:
    name = server.api.open(network())
    for _ in range(3):
        with ExitStack() as stack:
            for one in [stack.enter_context(connect(server)) for _ in range(MOST - 1)]:
                one.sendall(GET % f"/v1/recalibrations/{name}?wait=20".encode())
            time.sleep(0.2)
        time.sleep(0.2)
        assert server.http.get("/v1/models").status_code == 200
    until(lambda: "\nbnrecal_requests_open 1.0\n" in server.http.get("/metrics").text)


def test_client_that_stops_reading_is_disconnected(server: Server) -> None:
    size = len(server.http.get("/openapi.json").content)
    with connect(server) as opened:
        opened.sendall(GET % b"/openapi.json" * 300)
        time.sleep(5)
        found = 0
        with contextlib.suppress(ConnectionResetError):
            while chunk := opened.recv(1 << 20):
                found += len(chunk)
    assert 0 < found < 300 * size


def test_slow_reader_gets_complete_response(server: Server) -> None:
    size = len(server.http.get("/openapi.json").content)
    requests = GET % b"/openapi.json" * 99
    last = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    found = 0
    with connect(server) as opened:
        opened.sendall(requests + last)
        for _ in range(8):
            time.sleep(0.5)
            found += len(opened.recv(1 << 19))
        while chunk := opened.recv(1 << 20):
            found += len(chunk)
    assert found > 100 * size
