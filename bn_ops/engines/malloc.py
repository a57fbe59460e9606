"""Return free memory that the C library holds back to the system.

glibc keeps freed tensors of up to 32 MB for reuse, in one heap per thread: some tens of megabytes
per thread were measured, which no budget accounts for. Its tuning variables belong to the host
process; `malloc_trim` affects only free memory.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

__all__ = ["trim_heap"]


def trim_heap() -> None:
    """Return free memory to the system, if the C library supports it."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        found: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None  # another C library; on Windows there is no process-wide handle
    return found
