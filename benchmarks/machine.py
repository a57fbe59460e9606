"""Describe the machine that a benchmark ran on."""

from __future__ import annotations

import platform
from pathlib import Path

__all__ = ["cpu"]


def cpu() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
