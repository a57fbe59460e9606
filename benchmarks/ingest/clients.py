"""Run concurrent clients against one server, and measure the memory of the server."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any, Self

import httpx
import numpy as np
import psutil

from benchmarks.ingest.content import model

__all__ = ["open_recalibration", "stream"]

_INDEX_STRIDE = 1_000_000
_MEGABYTE = 1_000_000
_SAMPLE_SECONDS = 0.05


def open_recalibration(url: str) -> str:
    """Upload the model and open a recalibration; return its id."""
    kind = {"Content-Type": "application/x-onnx"}
    with httpx.Client(base_url=url, timeout=60) as http:
        sent = http.post("/v1/models", content=model(), headers=kind).raise_for_status()
        wanted = {"model": sent.json()["id"]}
        opened = http.post("/v1/recalibrations", json=wanted).raise_for_status()
    return str(opened.json()["id"])


def stream(
    url: str, pid: int, *, clients: int, connections: int, size: int, seconds: float
) -> dict[str, Any]:
    """Run clients for `seconds`; return rates, latencies and the memory of the server."""
    recalibration = open_recalibration(url)
    processes = [
        _begin(url, recalibration, n * _INDEX_STRIDE, size, seconds, connections)
        for n in range(clients)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    with _Memory(pid) as memory:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [json.loads(process.communicate()[0]) for process in processes]
    httpx.delete(f"{url}/v1/recalibrations/{recalibration}", timeout=60).raise_for_status()
    taken = np.array([one for answer in answers for one in answer["taken"]])
    wall = max(answer["seconds"] for answer in answers)
    return {
        "clients": clients,
        "connections": connections,
        "bytes": size,
        "batches": len(taken),
        "mb_per_s": len(taken) * size / wall / _MEGABYTE,
        "per_s": len(taken) / wall,
        "p50_ms": float(np.percentile(taken, 50) * 1000),
        "p99_ms": float(np.percentile(taken, 99) * 1000),
        "server_rss_mb": memory.peak / _MEGABYTE,
        "server_cpu_cores": memory.cpu_seconds / wall,
    }


def _begin(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ingest.sender", *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class _Memory:
    """Watch a process: peak resident memory in bytes and processor time in seconds."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak = 0
        self.cpu_seconds = 0.0

    def __enter__(self) -> Self:
        self._before = self._cpu_seconds()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        self.cpu_seconds = self._cpu_seconds() - self._before

    def _watch(self) -> None:
        while not self._stopped.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def _cpu_seconds(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)
