from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.ingest import clients, limits
from benchmarks.ingest.content import LARGE, SMALL, body
from benchmarks.ingest.table import write_tables
from tests.support.server_process import ServerProcess


@pytest.mark.parametrize("size", [LARGE, SMALL])
def test_body_size(size: int) -> None:
    assert 0 < len(body(size)) - size < 200


def test_limits_are_rates(tmp_path: Path) -> None:
    found = limits.measure(tmp_path, large=100_000, small=1000, seconds=0.02)
    assert len(found) == 6
    assert all(rate > 0 for rate in found.values())


def test_table_of_measurements(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        one = clients.stream(
            server.url, server.pid, clients=2, connections=2, size=SMALL, seconds=0.3
        )
    assert one["batches"] > 0
    assert one["p50_ms"] <= one["p99_ms"]
    assert 0 < one["server_rss_mb"] < 200
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- ingest: measured -->\nold\n<!-- ingest: end -->\nafter\n")
    results = {
        "about": {"date": "today", "cpu": "a", "cores": 2, "load": 0.0, "seconds": 1, "note": ""},
        "limits": limits.measure(tmp_path, large=1000, small=10, seconds=0.01),
        "streams": [one],
    }
    write_tables(page, results)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| 20 kB | 2 | 2 |" in text
