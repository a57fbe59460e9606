"""A limit on the memory of what waits at a layer.

The tensors that a stopped forward holds are its own local variables: nothing can move them to a
file. So the limit is watched, and passing it ends the run before the machine runs out.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from bn_ops.errors import SpillLimitError

__all__ = ["MemoryGauge"]

# Second field: resident pages. Where there is no such file, memory on the CPU is not watched.
_STATM = Path("/proc/self/statm")


class MemoryGauge:
    """How much more memory is in use than when the gauge was made.

    Args:
        limit_bytes: what may be used beyond that; None means no limit.
        device: where the activations lie. On the CPU the process's resident memory is read, which
            includes what the allocator keeps for reuse.
    """

    def __init__(self, limit_bytes: int | None, device: torch.device) -> None:
        self._limit = limit_bytes
        self._device = device
        self._start = self._used()

    def check(self, batch: int) -> None:
        """Compare with the limit.

        Raises:
            SpillLimitError: more is in use.
        """
        if self._limit is None:
            return
        used = self._used() - self._start
        if used > self._limit:
            raise SpillLimitError(
                f"activations of {batch + 1} batches take {used / 2**20:.0f} MiB on "
                f"{self._device}, the budget is {self._limit / 2**20:.0f} MiB. They stay in "
                "memory: use fewer samples, raise budget.memory_bytes, or export the module with "
                "bn_ops.export and recalibrate the file, whose engine spills to disk"
            )

    def _used(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.memory_allocated(self._device))
        if not _STATM.exists():
            return 0
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
