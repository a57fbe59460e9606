"""Memory of this machine or container, and the part of it that runs may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from service.settings import Settings

# The rest is for the server itself, the page cache and other processes.
RUNS_SHARE = 0.75
CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def machine_bytes() -> int:
    """Return the memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def cgroup_bytes(own: Path = OWN_CGROUP, root: Path = CGROUPS) -> int | None:
    """Return the lowest memory limit of this process's control groups; None without a limit.

    Source: cgroups(7); `memory.max` of version 2, `memory.limit_in_bytes` of version 1.
    """
    limits = [int(text) for file in _limit_files(own, root) if (text := _read(file)).isdecimal()]
    return min(limits, default=None)


def runs_bytes(settings: Settings) -> int:
    """Return how much memory all runs together may use."""
    return settings.runs_memory_bytes or int(_found_bytes() * RUNS_SHARE)


def worker_bytes(requested: int | None, settings: Settings) -> int:
    """Return how much private memory a worker may use, and its run reserves.

    Args:
        requested: what its recalibration requests; None for the maximum.
        settings: with the maximum.
    """
    return min(requested or settings.worker_memory_bytes, settings.worker_memory_bytes)


def run_bytes(requested: int | None, settings: Settings) -> int:
    """Return how much memory a run reserves: that of its shards, and of one more worker for them.

    Shards on a cluster reserve their memory there.

    Args:
        requested: what its recalibration requests for each worker; None for the maximum.
        settings: with the maximum and the number of shards.
    """
    worker = worker_bytes(requested, settings)
    if settings.runner:
        return worker
    if settings.shards == "auto":
        return max(worker, runs_bytes(settings))
    shards = int(settings.shards)
    return worker if shards == 1 else worker * (shards + 1)


@cache
def _found_bytes() -> int:
    machine = machine_bytes()
    return min(machine, cgroup_bytes() or machine)


def _limit_files(own: Path, root: Path) -> Iterator[Path]:
    """Yield the files that may hold a limit, from this process's group up to the root."""
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base = root / "memory" if controllers else root
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            yield folder / name
            if folder == base:
                break


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
