"""What the server's process takes, under the names that every Prometheus client library uses."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from service.telemetry.metrics import Gauge, Total

CPU = Total("process_cpu_seconds_total", "Processor time of the server's own process.")
MEMORY = Gauge("process_resident_memory_bytes", "Memory of the server's own process.")
FILES = Gauge("process_open_fds", "Open files of the server's own process.")
START = Gauge("process_start_time_seconds", "When the process began, in Unix time.")
GAUGES = (CPU, MEMORY, FILES, START)

_PROC = Path("/proc/self")
# Imported while the process starts; the kernel's own figure counts from the boot.
_BEGAN = time.time()


def read() -> list[Gauge]:
    """Return the figures; on a system without /proc those that need none."""
    return [CPU.showing({"": time.process_time()}), *_of_proc(), START.showing({"": _BEGAN})]


def _of_proc() -> list[Gauge]:
    try:
        pages = int((_PROC / "statm").read_text().split()[1])
        files: Mapping[str, float] = {"": len(list((_PROC / "fd").iterdir()))}
    except OSError:
        return []
    return [MEMORY.showing({"": pages * os.sysconf("SC_PAGE_SIZE")}), FILES.showing(files)]
