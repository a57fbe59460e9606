"""Limits of the machine, measured in the same run."""

from __future__ import annotations

import time

import numpy as np

__all__ = ["memory_bandwidth"]

_BYTES = 512 << 20
_REPEATS = 5


def memory_bandwidth() -> float:
    """Return the bytes per second that one thread copies, reads and writes counted; the fastest."""
    source = np.ones(_BYTES, np.uint8)
    target = np.zeros(_BYTES, np.uint8)
    fastest = float("inf")
    for _ in range(_REPEATS):
        started = time.perf_counter()
        np.copyto(target, source)
        fastest = min(fastest, time.perf_counter() - started)
    return 2 * _BYTES / fastest
