"""Slow and broken clients of a real server, and the effect of a shutdown on clients."""

from __future__ import annotations

import hashlib
import signal
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from tests.support.service_http import safetensors, scratch_files
from tests.support.service_process import Server, images, network, running
from tests.support.waiting import until


def connection(server: Server, length: int, name: str) -> socket.socket:
    """Send the headers of a batch without its body."""
    address = urlsplit(server.url)
    assert address.hostname is not None
    opened = socket.create_connection((address.hostname, address.port or 0), timeout=60)
    head = (
        f"PUT /v1/recalibrations/{name}/batches/0 HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/vnd.safetensors\r\nContent-Length: {length}\r\n\r\n"
    )
    opened.sendall(head.encode())
    return opened


def wait_for_upload(server: Server) -> None:
    """Wait until the server processes an upload besides the request for metrics."""
    until(lambda: "bnrecal_requests_open 2" in server.http.get("/metrics").text)


def accepts_connections(server: Server) -> bool:
    address = urlsplit(server.url)
    assert address.hostname is not None
    try:
        socket.create_connection((address.hostname, address.port or 0), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


def answer(opened: socket.socket) -> bytes:
    found = b""
    while chunk := opened.recv(1 << 16):
        found += chunk
    return found


def test_stalled_body_times_out(tmp_path: Path) -> None:
    with running(tmp_path / "data", body_idle_seconds=1.0) as server:
        name = server.api.open(network())
        with connection(server, 5000, name) as opened:
            opened.sendall(safetensors(x=images(0))[:100])
            found = answer(opened)
        assert found.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"body-timeout"' in found
        assert scratch_files(tmp_path / "data") == []
        assert server.api.put(name, 0, safetensors(x=images(0))).status_code == 201


def test_slow_body_times_out(tmp_path: Path) -> None:
    limits = {"body_idle_seconds": 0.5, "body_min_bytes_per_second": 100_000}
    with running(tmp_path / "data", **limits) as server:
        name = server.api.open(network())
        with connection(server, 100_000, name) as opened:
            opened.sendall(safetensors(x=images(0))[:200])
            stop = threading.Event()

            def send_slowly() -> None:
                while not stop.wait(0.05):
                    try:
                        opened.sendall(b"\0")
                    except OSError:
                        return

            sender = threading.Thread(target=send_slowly)
            sender.start()
            found = opened.recv(1 << 16)
            stop.set()
            sender.join()
        assert found.startswith(b"HTTP/1.1 408 ")


def test_broken_connection_leaves_no_draft(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        name = server.api.open(network())
        content = safetensors(x=images(0, samples=4096))
        with connection(server, len(content), name) as opened:
            opened.sendall(content[:-1])
        data = tmp_path / "data"
        until(lambda: not scratch_files(data), lambda: scratch_files(data))
        assert server.api.get(name).json()["batches"]["received"] == 0


def test_shutdown_completes_active_upload(tmp_path: Path) -> None:
    content = safetensors(x=images(0))
    with running(tmp_path / "data") as server:
        name = server.api.open(network())
        with connection(server, len(content), name) as opened:
            opened.sendall(content[:100])
            wait_for_upload(server)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: not accepts_connections(server))
            opened.sendall(content[100:])
            assert answer(opened).startswith(b"HTTP/1.1 201 ")
        assert server.process.wait(60) == 0
    with running(tmp_path / "data") as server:
        (stored,) = server.api.get(name, "/batches").json()["items"]
        assert stored["sha256"] == hashlib.sha256(content).hexdigest()


def test_shutdown_interrupts_stalled_upload(tmp_path: Path) -> None:
    content = safetensors(x=images(0))
    # Only the shutdown can end the upload: the timeout of its body is longer than that of the test.
    with running(tmp_path / "data", shutdown_seconds=0.5, body_idle_seconds=3600) as server:
        name = server.api.open(network())
        with connection(server, len(content), name) as opened:
            opened.sendall(content[:100])
            wait_for_upload(server)
            server.process.send_signal(signal.SIGTERM)
            found = answer(opened)
        assert server.process.wait(60) == 0
    assert found.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"shutting-down"' in found
    with running(tmp_path / "data") as server:
        assert server.api.get(name).json()["batches"]["received"] == 0
        assert server.api.put(name, 0, content).status_code == 201


def test_restart_resumes_interrupted_run(tmp_path: Path) -> None:
    with running(tmp_path / "data") as server:
        name = server.api.open(network())
        server.api.put(name, 0, safetensors(x=images(0)))
        server.api.start(name, 1)
        server.api.wait(name, "running")
        workers = server.workers()
        assert server.stop() == 0
        psutil.wait_procs(workers, timeout=60)
        assert not any(worker.is_running() for worker in workers)
    with running(tmp_path / "data") as server:
        found = server.api.wait(name, seconds=60)
        assert (found["state"], found["attempts"]) == ("succeeded", 1)


def test_shutdown_ends_event_streams(tmp_path: Path) -> None:
    # A shutdown would wait longer than the test for active uploads.
    with running(tmp_path / "data", shutdown_seconds=3600) as server:
        name = server.api.open(network())
        url = f"{server.url}/v1/recalibrations/{name}/events"
        with httpx.stream("GET", url, timeout=60) as response:
            lines = response.iter_lines()
            assert next(lines) == "event: state"
            server.process.send_signal(signal.SIGTERM)
            assert list(lines)[-1] == ""
        assert server.process.wait(60) == 0
