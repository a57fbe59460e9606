"""Hand memory that the C library holds back to the system.

glibc keeps freed tensors of up to 32 MB for the next one, in a heap for each thread: measured, some
tens of megabytes a thread, which no budget sees. Its tuning variables belong to the process that
this library is a guest in; `malloc_trim` changes nothing but the free memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

__all__ = ["trim_heap"]


def trim_heap() -> None:
    """Return free memory to the system, where the C library has a way to."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None  # another C library; on Windows there is no process-wide handle
    return found
