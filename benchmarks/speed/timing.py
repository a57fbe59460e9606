"""Interleaved timing: every repetition runs each contender once, under the same load."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["interleaved", "ratio_of"]

Times = dict[str, list[dict[str, float]]]


def interleaved(contenders: Mapping[str, Callable[[], object]], repeats: int) -> Times:
    """Time each contender `repeats` times, after one untimed run of each.

    Returns:
        Contender → `wall` and `cpu` seconds of each repetition.
    """
    times: Times = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(repeats):
        for name, run in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append(
                {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
            )
    return times


def ratio_of(
    times: Mapping[str, Sequence[Mapping[str, float]]], over: str, under: str, clock: str
) -> dict[str, float]:
    """Return the median, minimum and maximum of the ratios within each repetition."""
    ratios = [a[clock] / b[clock] for a, b in zip(times[over], times[under], strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios)}
