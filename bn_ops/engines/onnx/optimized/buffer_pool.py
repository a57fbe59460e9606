"""Reuse the memory of tensors.

Fresh memory costs a page fault and zeroing; for a network's activations this is more expensive than
computing them, above all on a virtual machine whose host also has to find the memory. So the pool
allocates buffers of several tensors each, divides them, and joins parts that are free again: the
memory that a run touches is about the most that it holds at one time.
"""

from __future__ import annotations

import math
import mmap
import sys
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["BufferPool"]

# Buffers of at least this size are separate mappings, which return to the system when they are
# freed; the C library would keep the memory.
_MIN_MAPPED_BYTES = 1 << 20

# A mapping is this many times as large as the tensor that it is made for, if the budget allows it:
# a tensor then also fits into the gap that several smaller ones have left. Pages that were never
# used take no memory.
_TENSORS_PER_MAPPING = 8

# Parts are multiples of a cache line.
_LINE = 64

# Elsewhere MADV_DONTNEED does not free memory at once. A buffer then stays whole: the rest of a
# divided one could not be returned to the system.
_CAN_FREE_PARTS = sys.platform == "linux"

# Where buffers stay whole, they are reused for tensors of at least this share of their size.
_MIN_FILL = 0.75


@dataclass(slots=True, eq=False)
class _Gap:
    """A free part of a buffer.

    Attributes:
        start, size: bytes.
        resident: whether it may occupy memory, except beyond `_Buffer.touched`: it has been in use
            since it was last freed.
    """

    start: int
    size: int
    resident: bool = True


@dataclass(slots=True, eq=False)
class _Buffer:
    """Memory from the system.

    Attributes:
        memory: its bytes.
        mapping: the mapping that it is; None if it comes from the C library.
        gaps: its free parts, in order.
        touched: bytes from the start that have been in use; the pages after them take no memory.
    """

    memory: NDArray[np.uint8]
    mapping: mmap.mmap | None
    gaps: list[_Gap] = field(default_factory=list)
    touched: int = 0

    @property
    def unused(self) -> bool:
        return len(self.gaps) == 1 and self.gaps[0].size == self.memory.nbytes

    @property
    def idle_bytes(self) -> int:
        """Bytes of memory that its gaps may occupy."""
        return sum(self._occupied(gap) for gap in self.gaps)

    def _occupied(self, gap: _Gap) -> int:
        return max(0, min(gap.start + gap.size, self.touched) - gap.start) if gap.resident else 0

    def fresh_bytes(self, gap: _Gap, size: int) -> int:
        """Return how many of the first `size` bytes of a gap have never been in use."""
        return max(0, gap.start + size - self.touched)

    def close_gap(self, gap: _Gap, size: int) -> int:
        """Take the first bytes of a gap; return their start."""
        start = gap.start
        self.touched = max(self.touched, start + size)
        if gap.size == size:
            self.gaps.remove(gap)
        else:
            gap.start += size
            gap.size -= size
        return start

    def open_gap(self, start: int, size: int) -> None:
        """Free a part, and join it with the gaps next to it."""
        place = bisect(self.gaps, start, key=lambda gap: gap.start)
        gap = _Gap(start=start, size=size)
        if place < len(self.gaps) and self.gaps[place].start == start + size:
            gap.size += self.gaps.pop(place).size
        if place and self.gaps[place - 1].start + self.gaps[place - 1].size == start:
            before = self.gaps.pop(place := place - 1)
            gap = _Gap(start=before.start, size=before.size + gap.size)
        self.gaps.insert(place, gap)

    def free_gaps(self) -> None:
        """Return the memory of the gaps to the system, page by page."""
        if self.mapping is None or not _CAN_FREE_PARTS:
            return
        for gap in self.gaps:
            first = -(-gap.start // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (gap.start + gap.size) // mmap.PAGESIZE * mmap.PAGESIZE
            if gap.resident and first < last:
                self.mapping.madvise(mmap.MADV_DONTNEED, first, last - first)
            gap.resident = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loan:
    buffer: _Buffer
    start: int
    size: int


class BufferPool:
    """Buffers divided among tensors, some in use and some idle; not thread-safe.

    Args:
        fits: returns whether a number of bytes fits into memory in addition to stored tensors.
    """

    def __init__(self, fits: Callable[[int], bool]) -> None:
        self._fits = fits
        self._buffers: list[_Buffer] = []
        self._loans: dict[int, _Loan] = {}
        self._used_bytes = 0

    def take(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Return an array with undefined content."""
        nbytes = math.prod(shape) * dtype.itemsize
        size = max(-(-nbytes // _LINE) * _LINE, _LINE)
        loan = self._reused(size) or self._fresh(size)
        part = loan.buffer.memory[loan.start : loan.start + nbytes]
        self._loans[_address(part)] = loan
        return part.view(dtype).reshape(shape)

    def give(self, array: NDArray[np.generic]) -> None:
        """Return an array to the pool that `take` returned and that is no longer referenced."""
        self.hand_over(array)
        self.give_back(array)

    def hand_over(self, array: NDArray[np.generic]) -> None:
        """Stop counting an array that `take` returned, because it has been stored."""
        self._used_bytes -= self._loans[_address(array)].size

    def give_back(self, array: NDArray[np.generic]) -> None:
        """Return an array to the pool that was stored; arrays from elsewhere are ignored."""
        loan = self._loans.pop(_address(array), None)
        if loan is not None:
            loan.buffer.open_gap(loan.start, loan.size)
            self.evict_idle()

    def evict_idle(self) -> bool:
        """Free idle memory, the largest buffers first, until the rest fits; return whether it does.

        Gaps in buffers that are in use are freed last.
        """
        idle = sorted((b for b in self._buffers if b.unused), key=lambda b: b.memory.nbytes)
        while idle and not self._within_budget():
            self._buffers.remove(idle.pop())
        for buffer in self._buffers:
            if self._within_budget():
                return True
            buffer.free_gaps()
        return self._within_budget()

    def _within_budget(self) -> bool:
        idle = sum(buffer.idle_bytes for buffer in self._buffers)
        return self._fits(idle + self._used_bytes)

    def _reused(self, size: int) -> _Loan | None:
        """Return part of the gap that needs the least fresh memory, then of the smallest one."""
        found = min(
            self._fitting(size),
            key=lambda found: (found[0].fresh_bytes(found[1], size), found[1].size),
            default=None,
        )
        if found is None:
            return None
        buffer, gap = found
        taken = size if _CAN_FREE_PARTS else gap.size
        self._used_bytes += taken
        return _Loan(buffer=buffer, start=buffer.close_gap(gap, taken), size=taken)

    def _fitting(self, size: int) -> Iterator[tuple[_Buffer, _Gap]]:
        largest = math.inf if _CAN_FREE_PARTS else size / _MIN_FILL
        for buffer in self._buffers:
            for gap in buffer.gaps:
                if size <= gap.size <= largest:
                    yield buffer, gap

    def _fresh(self, size: int) -> _Loan:
        self._used_bytes += size
        self.evict_idle()
        buffer = self._allocated(size)
        self._buffers.append(buffer)
        buffer.gaps.append(_Gap(start=0, size=buffer.memory.nbytes))
        return _Loan(buffer=buffer, start=buffer.close_gap(buffer.gaps[0], size), size=size)

    def _allocated(self, size: int) -> _Buffer:
        if size < _MIN_MAPPED_BYTES:
            return _Buffer(np.empty(size, np.uint8), None)
        memory = self._mapped(size)
        return _Buffer(np.frombuffer(memory, np.uint8), memory)

    def _mapped(self, size: int) -> mmap.mmap:
        """Return a mapping for a tensor of this size, which counts as used, and for more."""
        total = size
        if _CAN_FREE_PARTS:
            # Gaps count in full here: the limits of a process are on mappings, not on pages.
            held = self._used_bytes + sum(gap.size for b in self._buffers for gap in b.gaps)
            more = (times * size for times in range(_TENSORS_PER_MAPPING - 1, 0, -1))
            total += next((nbytes for nbytes in more if self._fits(held + nbytes)), 0)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            return mmap.mmap(-1, total, flags=flags)
        except OSError:
            return mmap.mmap(-1, size, flags=flags)


def _address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])
