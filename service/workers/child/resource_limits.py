"""Limits that the kernel holds, set by the worker on itself before it loads anything large."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

from service.workers.messages import Limits

PR_SET_PDEATHSIG = 1
MOST_OPEN_FILES = 4096


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent dies; end now if that has happened."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def apply(limits: Limits) -> None:
    """Set resource limits that no code in this process can raise again."""
    for kind, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MOST_OPEN_FILES),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        # Private memory; spilled tensors are shared mappings of files and do not count.
        (resource.RLIMIT_DATA, limits.memory_bytes),
        # The address space on top of it: libraries, mapped batches, the spilled tensors.
        (resource.RLIMIT_AS, limits.memory_bytes + limits.frontier_spill_bytes + limits.file_bytes),
    ):
        _, hard = resource.getrlimit(kind)
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (bound, bound))


def be_the_first_to_go() -> None:
    """Tell the kernel to kill this process before the server when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
