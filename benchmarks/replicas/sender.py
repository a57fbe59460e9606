"""A client process that PUTs batches over many connections and reports the time of each.

    python -m benchmarks.replicas.sender RECALIBRATION FIRST BYTES SECONDS CONNECTIONS URL …

The connections are divided evenly among the URLs. Requests are complete before the clock starts,
and one thread serves all connections: client, servers, database and object store share the
processor, so the client must cost little. It waits for a line on standard input, so that all
clients start at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import selectors
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from time import perf_counter
from urllib.parse import urlsplit

from benchmarks.ingest.content import body

__all__ = ["STRIDE"]

# Indices of one connection.
STRIDE = 100_000
# Every request with this number in its connection is sent twice, as after a lost response.
_REPEAT_EVERY = 50
_RESPONSE = re.compile(
    rb"HTTP/1\.1 (\d+).*?\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n", re.DOTALL | re.IGNORECASE
)


@dataclass(slots=True, kw_only=True)
class _Connection:
    """One connection, with one request at a time."""

    socket: socket.socket
    requests: Iterator[tuple[bytes, bool]]
    began: float = 0.0
    is_repeated: bool = False
    unsent: memoryview = field(default_factory=lambda: memoryview(b""))
    received: bytes = b""

    def begin(self) -> None:
        """Send as much of the next request as the socket takes."""
        content, self.is_repeated = next(self.requests)
        self.unsent = memoryview(content)
        self.received = b""
        self.began = perf_counter()
        self.send()

    def send(self) -> None:
        while self.unsent:
            try:
                self.unsent = self.unsent[self.socket.send(self.unsent) :]
            except BlockingIOError:
                return

    def receive(self) -> bool:
        """Return whether the response is complete."""
        part = self.socket.recv(1 << 16)
        self.received += part
        found = _RESPONSE.match(self.received)
        if not part or (found and int(found[1]) != (200 if self.is_repeated else 201)):
            raise SystemExit(f"the server answered {self.received!r}")
        return found is not None and len(self.received) >= found.end() + int(found[2])


def _requests(path: str, host: str, first: int, content: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the requests of a connection, and whether each repeats the one before."""
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    rest = (
        f" HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/vnd.safetensors\r\n"
        f"Content-Digest: sha-256=:{digest}:\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode() + content
    for index in count(first):
        request = f"PUT {path}/{index}".encode() + rest
        yield request, False
        if index % _REPEAT_EVERY == _REPEAT_EVERY - 1:
            yield request, True


def _connect(url: str, path: str, first: int, content: bytes) -> _Connection:
    parts = urlsplit(url)
    connected = socket.create_connection((parts.hostname, parts.port))
    connected.settimeout(0)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _Connection(socket=connected, requests=_requests(path, parts.netloc, first, content))


def _send(connections: Sequence[_Connection], seconds: float) -> list[tuple[float, float]]:
    """Send until the time is over; return start and duration of each acknowledged new batch."""
    acknowledged = []
    with selectors.DefaultSelector() as selector:
        for one in connections:
            selector.register(one.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, one)
            one.begin()
        stop = perf_counter() + seconds
        open_connections = len(connections)
        while open_connections:
            for key, events in selector.select():
                one = key.data
                if events & selectors.EVENT_WRITE:
                    one.send()
                    if not one.unsent:
                        selector.modify(one.socket, selectors.EVENT_READ, one)
                if not events & selectors.EVENT_READ or not one.receive():
                    continue
                now = perf_counter()
                if not one.is_repeated:
                    acknowledged.append((one.began, now - one.began))
                if now >= stop:
                    selector.unregister(one.socket)
                    open_connections -= 1
                    continue
                one.begin()
                if one.unsent:
                    wanted = selectors.EVENT_READ | selectors.EVENT_WRITE
                    selector.modify(one.socket, wanted, one)
    return acknowledged


def main(words: list[str]) -> None:
    """Send for a given time over a given number of connections."""
    recalibration, urls = words[0], words[5:]
    first, size, connections = int(words[1]), int(words[2]), int(words[4])
    path = f"/v1/recalibrations/{recalibration}/batches"
    content = body(size)
    opened = [
        _connect(urls[number % len(urls)], path, first + number * STRIDE, content)
        for number in range(connections)
    ]
    print("ready", flush=True)
    sys.stdin.readline()
    began = perf_counter()
    acknowledged = _send(opened, float(words[3]))
    taken = [seconds for _, seconds in acknowledged]
    print(json.dumps({"taken": taken, "seconds": perf_counter() - began}))


if __name__ == "__main__":
    main(sys.argv[1:])
