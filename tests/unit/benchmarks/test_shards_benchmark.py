"""The table of the benchmark of runs in shards."""

from __future__ import annotations

import pytest

from benchmarks.shards import _overhead, _table

FOUND = {
    "about": {
        "date": "2026-11-27",
        "cpu": "some",
        "cores": 2,
        "network": "resnet18",
        "images": 64,
        "size": 32,
    },
    "seconds": {"one worker": [10.0, 12.0, 11.0], "2 shards, Ray": [13.0, 14.0, 15.0]},
    "overhead": {"2 shards, Ray": 0.054},
    "recovery": [{"level": 3, "settled_seconds": 1.25, "recovery_seconds": 2.0}],
}


@pytest.mark.parametrize(
    ("seconds", "shards", "overhead"), [(11.7, 1, 0.0), (12.4, 2, 0.0), (13.4, 2, 0.1)]
)
def test_overhead_leaves_out_the_allowed_start(
    seconds: float, shards: int, overhead: float
) -> None:
    assert _overhead(seconds, 10.0, shards) == pytest.approx(overhead)


def test_table_has_every_run_and_every_recovery() -> None:
    rows = [line for line in _table(FOUND).splitlines() if line.startswith("|")]
    assert "| one worker | 11.0 (10.0, 12.0, 11.0) |  |" in rows
    assert "| 2 shards, Ray | 14.0 (13.0, 14.0, 15.0) | +5 % |" in rows
    assert rows[-1] == "| 3 | 1.2 s | 2.0 s |"
