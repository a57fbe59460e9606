"""Describe the machine and the commit that a benchmark ran on."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["about", "commit", "cpu"]


def about() -> dict[str, Any]:
    """Return the date, the processor, the number of cores and the load of the last minute."""
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def cpu() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def commit() -> str | None:
    """Return the short name of the commit, with `+` if files differ from it; None outside git."""
    describe = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        found = subprocess.run(
            describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
