"""The API process stays small and flat however much streams through it."""

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
def test_memory_is_flat_while_batches_stream_in(tmp_path: Path) -> None:
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
        # After the first few the allocator has what it needs; growth would be a leak.
        assert seen[-1] - seen[2] < 16 << 20
        assert server.api.get(name).json()["batches"]["bytes"] == 10 * len(content)


def test_a_batch_larger_than_the_limit_on_memory_is_never_held(tmp_path: Path) -> None:
    """One batch of twice the limit goes through in blocks."""

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
