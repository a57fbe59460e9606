"""Measure the time until a server with a very large ledger is ready."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import httpx

from tests.support import large_ledger
from tests.support.server_process import ServerProcess

OTHERS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Durations in seconds.

    Attributes:
        empty: until a server with an empty ledger is ready (interpreter and imports).
        ready: until the server with the large ledger is ready.
        status: of a request for the status of the large stream.
        start: of a request to start the large stream.
    """

    empty: float
    ready: float
    status: float
    start: float


def measure(folder: Path, size: int) -> Restart:
    """Start a server whose ledger has a stream of `size` batches and a thousand short streams."""
    large_ledger.write(folder, {"largest": size} | {f"r{i}": 3 for i in range(OTHERS)})
    empty_server = ServerProcess(folder.with_name("empty"))
    try:
        empty = _until_ready(empty_server)
    finally:
        empty_server.stop()
    server = ServerProcess(folder)
    try:
        ready = _until_ready(server)
        with httpx.Client(base_url=server.url, timeout=60) as http:
            path = "/v1/recalibrations/largest"
            status = _seconds(http, "GET", path)
            start = _seconds(http, "POST", f"{path}/start", {"batches": size})
    finally:
        server.stop()
    return Restart(empty=empty, ready=ready, status=status, start=start)


def _until_ready(server: ServerProcess) -> float:
    began = monotonic()
    server.start()
    httpx.get(f"{server.url}/readyz", timeout=60).raise_for_status()
    return monotonic() - began


def _seconds(http: httpx.Client, method: str, path: str, body: object = None) -> float:
    began = monotonic()
    http.request(method, path, json=body).raise_for_status()
    return monotonic() - began
