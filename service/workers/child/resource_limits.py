"""Resource limits that the worker sets on itself before it loads any library."""

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
MAX_OPEN_FILES = 4096


def exit_with_parent(parent: int) -> None:
    """Let the kernel kill this process when its parent dies; exit now if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def apply(limits: Limits) -> None:
    """Set resource limits that this process cannot raise again."""
    for kind, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        # Private memory; spilled tensors are shared file mappings and do not count.
        (resource.RLIMIT_DATA, limits.memory_bytes),
        # The address space also holds libraries, mapped batches and spilled tensors.
        (resource.RLIMIT_AS, limits.memory_bytes + limits.frontier_spill_bytes + limits.file_bytes),
    ):
        _, hard = resource.getrlimit(kind)
        bound = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (bound, bound))


def prefer_as_oom_victim() -> None:
    """Let the kernel kill this process before the server when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
