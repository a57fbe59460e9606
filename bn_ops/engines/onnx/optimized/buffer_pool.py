"""Memory for tensors, used again while its pages are warm.

Fresh memory costs a page fault for every 4 KiB and the kernel's zeroing of it: for a network's
activations more than the arithmetic that fills them.
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

# A buffer serves tensors down to this share of its size.
_MIN_FILL = 0.75

# From this size on a buffer is a mapping of its own, which goes back to the system as soon as it is
# let go; the C library would keep it. Two huge pages.
_MAPPED_BYTES = 4 << 20


class BufferPool:
    """Buffers in use and buffers that wait to be used again; not thread-safe.

    Args:
        has_room: tells whether so many bytes fit beside what is stored.
    """

    def __init__(self, has_room: Callable[[int], bool]) -> None:
        self._has_room = has_room
        self._idle: dict[int, list[NDArray[np.generic]]] = defaultdict(list)
        self._idle_bytes = 0
        self._used_bytes = 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Return an array with any content."""
        nbytes = math.prod(shape) * dtype.itemsize
        fitting = (n for n, b in self._idle.items() if b and nbytes <= n <= nbytes / _MIN_FILL)
        size = min(fitting, default=None)
        if size is None:
            self._used_bytes += nbytes
            self.make_room()
            buffer = _allocate(nbytes)
        else:
            buffer = self._idle[size].pop()
            self._idle_bytes -= size
            self._used_bytes += size
        return buffer[:nbytes].view(dtype).reshape(shape)

    def give(self, array: NDArray[np.generic]) -> None:
        """Take back an array that `take` returned and nothing refers to any more."""
        base = base_of(array)
        self._used_bytes -= base.nbytes
        self._wait(base)

    def hand_over(self, array: NDArray[np.generic]) -> None:
        """Stop counting an array that `take` returned: it is stored."""
        self._used_bytes -= base_of(array).nbytes

    def give_back(self, array: NDArray[np.generic]) -> None:
        """Take an array that was stored; one from elsewhere is let go."""
        base = base_of(array)
        if base.dtype == np.uint8:
            self._wait(base)

    def make_room(self) -> bool:
        """Let go of idle buffers, the largest first, until the rest fits; tell whether it does."""
        for size in sorted(self._idle, reverse=True):
            while self._idle[size] and not self._fits():
                self._idle[size].pop()
                self._idle_bytes -= size
        return self._fits()

    def _fits(self) -> bool:
        return self._has_room(self._idle_bytes + self._used_bytes)

    def _wait(self, base: NDArray[np.generic]) -> None:
        self._idle[base.nbytes].append(base)
        self._idle_bytes += base.nbytes
        self.make_room()


def _allocate(nbytes: int) -> NDArray[np.generic]:
    if nbytes < _MAPPED_BYTES:
        return np.empty(nbytes, np.uint8)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
