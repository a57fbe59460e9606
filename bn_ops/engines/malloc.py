"""Control what the C library does with freed memory.

glibc keeps freed blocks of up to 32 MB for reuse, in one heap per thread: some tens of megabytes
per thread were measured, which no budget accounts for. Larger blocks go back to the system at
once, so a network whose activations are larger touches fresh memory at every operator: a page
fault and the zeroing of 4 KiB, again and again.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

__all__ = ["RetainedHeap", "allocated_bytes", "trim_heap"]

# Parameters of mallopt in glibc's <malloc.h>.
_MAX_FAST, _TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = 1, -1, -3, -4

# No block outside of the heap, no return of memory from the end of the heap, and no small free
# blocks that keep large ones from being joined.
_RETAINING = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1), (_MAX_FAST, 0))

# glibc raises its two thresholds to these values by itself once a process has freed a block of
# 32 MB. Setting any of them ends that adjustment, so they are set to where it leads.
_ADJUSTED = (
    (_MMAP_THRESHOLD, 32 << 20),
    (_TRIM_THRESHOLD, 64 << 20),
    (_MMAP_MAX, 65536),
    (_MAX_FAST, 128),
)

# Where one of these is set, the host process has chosen its own parameters.
_ENVIRONMENT = (
    "GLIBC_TUNABLES",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
)


# Of `struct mallinfo2`: sizes and numbers of blocks.
_MEMBERS = (
    "arena",
    "ordblks",
    "smblks",
    "hblks",
    "hblkhd",
    "usmblks",
    "fsmblks",
    "uordblks",
    "fordblks",
    "keepcost",
)


class RetainedHeap:
    """Keeps all freed memory in the process for reuse, from `acquire` until `release`.

    The setting is the process's, so it ends with the last holder; free memory is then returned to
    the system. Nothing happens with a C library other than glibc, or where the environment sets
    glibc's parameters. Threads other than the main one have heaps that hold only small blocks, so
    they gain little.
    """

    _lock: ClassVar = threading.Lock()
    _holders: ClassVar[int] = 0

    def __init__(self) -> None:
        self._held = False

    def acquire(self) -> None:
        """Start to retain freed memory."""
        with RetainedHeap._lock:
            if not self._held and _is_ours():
                self._held = True
                RetainedHeap._holders += 1
                if RetainedHeap._holders == 1:
                    _set(_RETAINING)

    @property
    def held(self) -> bool:
        """Whether freed memory is retained for this holder."""
        return self._held

    def release(self) -> None:
        """Stop it, and return free memory unless another holder needs it; may be repeated."""
        with RetainedHeap._lock:
            if self._held:
                self._held = False
                RetainedHeap._holders -= 1
                if RetainedHeap._holders == 0:
                    _set(_ADJUSTED)
                    trim_heap()


def trim_heap() -> None:
    """Return free memory to the system, if the C library supports it."""
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


def allocated_bytes() -> int:
    """Return the size of all blocks that are in use, for the holder of a `RetainedHeap`."""
    found = _function("mallinfo2")
    assert found is not None
    info: Any = found()
    return int(info.uordblks) + int(info.hblkhd)


class _Information(ctypes.Structure):
    """`struct mallinfo2` of glibc's <malloc.h>."""

    _fields_: ClassVar = [(name, ctypes.c_size_t) for name in _MEMBERS]


def _is_ours() -> bool:
    return _function("mallinfo2") is not None and not any(map(os.environ.get, _ENVIRONMENT))


def _set(parameters: tuple[tuple[int, int], ...]) -> None:
    mallopt = _function("mallopt")
    assert mallopt is not None
    for parameter, value in parameters:
        mallopt(parameter, value)


@cache
def _function(name: str) -> Callable[..., Any] | None:
    """Return a function of glibc, or None in a process with another C library."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - only glibc has it
        found: Any = getattr(library, name)
    except (AttributeError, OSError, TypeError):
        return None  # on Windows there is no process-wide handle
    if name == "mallinfo2":
        found.restype = _Information
    return found  # type: ignore[no-any-return]  # ctypes has no types for functions
