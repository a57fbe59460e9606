"""Latency of folded networks in onnxruntime, interleaved over the files of all tools."""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from bn_ops.onnx_files.session import session

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["latencies", "lower_quartile", "paired_ratio"]

ROUNDS = 60
WARM_UP = 3
THREADS = 1


def latencies(files: dict[str, Path], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Return the seconds per image of each file, one number per round.

    Every round runs each file once, in random order, so that other load on the machine affects all
    files equally. onnxruntime optimizes each file as in production.
    """
    sessions = {name: session(path, threads=THREADS, optimize=True) for name, path in files.items()}
    batch = {"x": np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)}
    times: dict[str, list[float]] = {name: [] for name in files}
    order = random.Random(0)
    for number in range(rounds + WARM_UP):
        for name, opened in order.sample(sorted(sessions.items()), len(sessions)):
            started = time.perf_counter()
            opened.run(None, batch)
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - started)
    return times


def lower_quartile(times: list[float]) -> float:
    """Return the lower quartile: other load on the machine only adds time."""
    return statistics.quantiles(times, n=4)[0]


def paired_ratio(ours: list[float], theirs: list[float]) -> float:
    """Return the median ratio of our time to theirs within each round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
