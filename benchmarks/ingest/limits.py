"""Measure the limits of the machine: disk, SHA-256 and loopback."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

__all__ = ["measure"]

_MEGABYTE = 1_000_000
_BLOCK_BYTES = 1 << 20


def measure(folder: Path, *, large: int, small: int, seconds: float) -> dict[str, float]:
    """Measure each limit for about `seconds`.

    Args:
        folder: a folder on the file system of the server's data.
        large: bytes of a large batch.
        small: bytes of a small batch.
        seconds: duration of each measurement.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {size: secrets.token_bytes(size) for size in (large, small)}
    found = {}
    for threads in (1, 4):
        found[f"disk_{threads}_mb_per_s"] = (
            _written(folder, files[large], threads, seconds) * large / _MEGABYTE
        )
        found[f"disk_{threads}_small_files_per_s"] = _written(
            folder, files[small], threads, seconds
        )
    found["sha256_mb_per_s"] = _hashed(seconds)
    found["loopback_mb_per_s"] = _sent(seconds)
    return found


def _written(folder: Path, content: bytes, threads: int, seconds: float) -> float:
    """Return the number of files written and fsynced per second."""
    stop = perf_counter() + seconds

    def work(number: int) -> int:
        done = 0
        path = folder / f"limit-{number}"
        while perf_counter() < stop:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            os.write(handle, content)
            os.fsync(handle)
            os.close(handle)
            path.unlink()
            done += 1
        return done

    began = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    return done / (perf_counter() - began)


def _hashed(seconds: float) -> float:
    """Return the megabytes per second of SHA-256 on one core."""
    block = secrets.token_bytes(_BLOCK_BYTES)
    digest = hashlib.sha256()
    began = perf_counter()
    done = 0
    while perf_counter() < began + seconds:
        digest.update(block)
        done += len(block)
    return done / (perf_counter() - began) / _MEGABYTE


def _sent(seconds: float) -> float:
    """Return the megabytes per second of a TCP connection on loopback, one thread per end."""
    block = bytes(_BLOCK_BYTES)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
        sender = threading.Thread(target=_send_for, args=(address, block, seconds))
        sender.start()
        connection, _ = listener.accept()
        with connection:
            began = perf_counter()
            done = 0
            buffer = bytearray(_BLOCK_BYTES)
            while got := connection.recv_into(buffer):
                done += got
        sender.join()
    return done / (perf_counter() - began) / _MEGABYTE


def _send_for(address: tuple[str, int], block: bytes, seconds: float) -> None:
    stop = perf_counter() + seconds
    with socket.create_connection(address) as connection:
        while perf_counter() < stop:
            connection.sendall(block)
