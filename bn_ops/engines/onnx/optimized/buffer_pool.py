"""Reuse the memory of tensors.

Fresh memory costs a page fault and zeroing for every 4 KiB; for a network's activations this is
more expensive than computing them.
"""

from __future__ import annotations

import math
import mmap
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bn_ops.engines.onnx.tensor_store import base_of

__all__ = ["BufferPool"]

# A buffer is reused for tensors of at least this share of its size.
_MIN_FILL = 0.75

# Buffers of at least this size are separate mappings, which return to the system when they are
# freed; the C library would keep the memory. Two huge pages.
_MIN_MAPPED_BYTES = 4 << 20


class BufferPool:
    """A pool of buffers, some in use and some idle; not thread-safe.

    Args:
        fits: returns whether a number of bytes fits into memory in addition to stored tensors.
    """

    def __init__(self, fits: Callable[[int], bool]) -> None:
        self._fits = fits
        self._idle: dict[int, list[NDArray[np.generic]]] = defaultdict(list)
        self._idle_bytes = 0
        self._used_bytes = 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Return an array with undefined content."""
        nbytes = math.prod(shape) * dtype.itemsize
        fitting = (n for n, b in self._idle.items() if b and nbytes <= n <= nbytes / _MIN_FILL)
        size = min(fitting, default=None)
        if size is None:
            self._used_bytes += nbytes
            self.evict_idle()
            buffer = _allocate(nbytes)
        else:
            buffer = self._idle[size].pop()
            self._idle_bytes -= size
            self._used_bytes += size
        return buffer[:nbytes].view(dtype).reshape(shape)

    def give(self, array: NDArray[np.generic]) -> None:
        """Return an array to the pool that `take` returned and that is no longer referenced."""
        base = base_of(array)
        self._used_bytes -= base.nbytes
        self._keep_idle(base)

    def hand_over(self, array: NDArray[np.generic]) -> None:
        """Stop counting an array that `take` returned, because it has been stored."""
        self._used_bytes -= base_of(array).nbytes

    def give_back(self, array: NDArray[np.generic]) -> None:
        """Return an array to the pool that was stored; arrays from elsewhere are ignored."""
        base = base_of(array)
        if base.dtype == np.uint8:
            self._keep_idle(base)

    def evict_idle(self) -> bool:
        """Free idle buffers, largest first, until the rest fits; return whether it does."""
        for size in sorted(self._idle, reverse=True):
            while self._idle[size] and not self._within_budget():
                self._idle[size].pop()
                self._idle_bytes -= size
        return self._within_budget()

    def _within_budget(self) -> bool:
        return self._fits(self._idle_bytes + self._used_bytes)

    def _keep_idle(self, base: NDArray[np.generic]) -> None:
        self._idle[base.nbytes].append(base)
        self._idle_bytes += base.nbytes
        self.evict_idle()


def _allocate(nbytes: int) -> NDArray[np.generic]:
    if nbytes < _MIN_MAPPED_BYTES:
        return np.empty(nbytes, np.uint8)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
