"""The memory of the API process does not grow with the amount of data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.support.service_http import safetensors, with_header
from tests.support.service_process import network, running

LIMIT_BYTES = 150 << 20
SIZE = 512
SAMPLES = 32  # of 1 MiB each


@pytest.mark.slow
def test_constant_memory_during_uploads(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(SAMPLES, 1, SIZE, SIZE)).astype(np.float32)
    content = safetensors(x=values)
    with running(tmp_path / "data") as server:
        process = psutil.Process(server.process.pid)
        name = server.api.open(network(size=SIZE))
        seen = []
        for index in range(10):
            assert server.api.put(name, index, content).status_code == 201
            seen.append(process.memory_info().rss)
        assert max(seen) < LIMIT_BYTES
        # The first batches warm up the allocator; later growth would be a leak.
        assert seen[-1] - seen[2] < 16 << 20
        assert server.api.get(name).json()["batches"]["bytes"] == 10 * len(content)


def test_batch_larger_than_memory_limit(tmp_path: Path) -> None:
    """A batch of twice the limit is processed in blocks."""

    def body() -> Iterator[bytes]:
        table = {"x": {"dtype": "F32", "shape": [n, 1, SIZE, SIZE], "data_offsets": [0, n << 20]}}
        yield with_header(table, b"")
        for _ in range(n):
            yield bytes(1 << 20)

    n = 2 * LIMIT_BYTES >> 20
    with running(tmp_path / "data") as server:
        name = server.api.open(network(size=SIZE))
        response = server.http.put(
            f"/v1/recalibrations/{name}/batches/0",
            content=body(),
            headers={"Content-Type": "application/vnd.safetensors"},
        )
        assert response.status_code == 201
        assert response.json()["samples"] == n
        assert psutil.Process(server.process.pid).memory_info().rss < LIMIT_BYTES
