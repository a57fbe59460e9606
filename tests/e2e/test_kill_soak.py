"""The short form of `make soak`: a few kills under three retrying clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.kills import soak
from tests.soak.streams import compare

KILLS = 5


@pytest.mark.slow
def test_kills_lose_and_duplicate_nothing(tmp_path: Path) -> None:
    log: list[dict[str, object]] = []
    tally = soak(
        tmp_path, kills=KILLS, seed=3, length=21, log=log.append, stream_count=1, max_pause_s=1.2
    )
    found = tally.summary()
    assert len(log) == found["kills"] == KILLS
    assert {"server", "worker"} <= {line["of"] for line in log}
    assert len(tally.rounds) >= 3
    assert tally.passed, found


def test_compare_counts_lost_and_duplicated() -> None:
    assert compare({0, 1, 2}, [0, 1, 2], 3) == (0, 0)
    # A batch without acknowledgment may be stored: its response was lost.
    assert compare({0, 1}, [0, 1, 2], 3) == (0, 0)
    assert compare({0, 1, 2}, [0, 2], 2) == (1, 0)
    assert compare({0, 1, 2}, [0, 1, 1, 2], 4) == (0, 2)
    assert compare({0, 1, 2}, [0, 1, 2], 4) == (0, 1)
