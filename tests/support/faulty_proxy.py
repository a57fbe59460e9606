"""A TCP proxy in front of an HTTP server that injects faults of a network and of a gateway."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from urllib.parse import urlsplit

_BUSY = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n"
    b"Content-Type: application/xml\r\n\r\n"
)
_BLOCK = 1 << 16


class Fault(StrEnum):
    """What happens to requests."""

    NONE = "none"
    RESET = "reset"
    """The connection is reset when the request arrives."""
    STALL = "stall"
    """The request arrives at the server, and nothing comes back."""
    BUSY = "busy"
    """The proxy answers 503; the request does not arrive at the server."""
    TRUNCATE = "truncate"
    """The connection is closed within the body of the response."""
    LOSE_ANSWER = "lose answer"
    """The server processes the request, and the connection is reset instead of the response."""


class FaultyProxy:
    """Forwards connections; `fault` may be changed at any time.

    Attributes:
        url: the address of the proxy.
        fault: applies to all requests from now on.
        requests: number of connections with a request, of any kind.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.fault = Fault.NONE
        self.requests = 0
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop, and reset all connections."""
        self._listener.close()
        self.reset()

    def reset(self) -> None:
        """Reset all connections."""
        with self._lock:
            for one in list(self._open):
                _reset(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            self._remember(client, stack)
            server = socket.create_connection(self._target)
            self._remember(server, stack)
            back = threading.Thread(target=self._back, args=(server, client), daemon=True)
            back.start()
            while block := client.recv(_BLOCK):
                if self.fault in {Fault.RESET, Fault.BUSY}:
                    self._refuse(client, block)
                    return
                server.sendall(block)
            server.shutdown(socket.SHUT_WR)
            back.join()

    def _refuse(self, client: socket.socket, block: bytes) -> None:
        self.requests += 1
        if self.fault is Fault.BUSY:
            _read_body(client, block)
            client.sendall(_BUSY)
        else:
            _reset(client)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := server.recv(_BLOCK):
                self.requests += 1
                fault = self.fault
                if fault is Fault.STALL:
                    continue
                if fault is Fault.LOSE_ANSWER:
                    _reset(client)
                    return
                if fault is Fault.TRUNCATE and len(block) > 1:
                    client.sendall(block[: len(block) // 2])
                    _reset(client)
                    return
                client.sendall(block)
            client.shutdown(socket.SHUT_WR)

    def _remember(self, end: socket.socket, stack: contextlib.ExitStack) -> None:
        stack.callback(self._forget, end)
        with self._lock:
            self._open.add(end)

    def _forget(self, end: socket.socket) -> None:
        with self._lock:
            self._open.discard(end)
        end.close()


@contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """Run a proxy to a URL."""
    proxy = FaultyProxy(target)
    try:
        yield proxy
    finally:
        proxy.close()


def _read_body(client: socket.socket, block: bytes) -> None:
    """Read a request to its end, so that the answer is not lost in a reset."""
    head, _, body = block.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: (\d+)", head)
    left = (int(found[1]) if found else 0) - len(body)
    while left > 0 and (more := client.recv(_BLOCK)):
        left -= len(more)


def _reset(end: socket.socket) -> None:
    """Close a connection with RST, and wake the threads that wait for it."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RDWR)
        end.close()
