"""Memory for tensors, used again while its pages are warm.

Fresh memory costs a page fault for every 4 KiB and the kernel's zeroing of it: for a network's
activations more than the arithmetic that fills them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["BufferPool"]

# A buffer serves tensors down to this share of its size.
_LEAST_USE = 0.75


class BufferPool:
    """Buffers that wait to be used again; not thread-safe.

    Args:
        has_room: tells whether so many bytes may wait.
    """

    def __init__(self, has_room: Callable[[int], bool]) -> None:
        self._has_room = has_room
        self._idle: dict[int, list[NDArray[np.uint8]]] = defaultdict(list)
        self._idle_bytes = 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Return an array with any content."""
        nbytes = math.prod(shape) * dtype.itemsize
        fitting = (n for n, b in self._idle.items() if b and nbytes <= n <= nbytes / _LEAST_USE)
        size = min(fitting, default=None)
        if size is None:
            self._shrink(nbytes)
            buffer = np.empty(nbytes, np.uint8)
        else:
            buffer = self._idle[size].pop()
            self._idle_bytes -= size
        return buffer[:nbytes].view(dtype).reshape(shape)

    def give(self, array: NDArray[np.generic]) -> None:
        """Take back an array that `take` returned and nothing refers to any more."""
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        if base.dtype == np.uint8 and self._has_room(self._idle_bytes + base.nbytes):
            self._idle[base.nbytes].append(base.view(np.uint8))
            self._idle_bytes += base.nbytes

    def _shrink(self, wanted: int) -> None:
        """Let go of idle buffers, the largest first, until so many bytes more have room."""
        for size in sorted(self._idle, reverse=True):
            while self._idle[size] and not self._has_room(self._idle_bytes + wanted):
                self._idle[size].pop()
                self._idle_bytes -= size
