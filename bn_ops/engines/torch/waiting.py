"""The memory budget of the activations that wait at a layer.

On the CPU nothing happens while memory use is below half of the budget. Above that, the outputs of
operators are tracked, and those beyond the budget are moved to files. On other devices nothing can
be moved to files; exceeding the budget ends the run before the device runs out of memory.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bn_ops.engines.torch.spill import ActivationTracker, SpillFiles
from bn_ops.errors import SpillLimitError
from bn_ops.options import Budget
from bn_ops.torch_modules.arguments import Item

__all__ = ["Waiting"]

# Second and third field: resident pages, and the file-backed ones among them. Without this file,
# activations are tracked from the first batch on.
_STATM = Path("/proc/self/statm")


class Waiting:
    """Keeps the waiting batches of one run within their budget.

    Args:
        budget: memory and files; None for no limit.
        device: the device of the activations.
    """

    def __init__(self, budget: Budget | None, device: torch.device) -> None:
        self._budget = budget
        self._device = device
        self._files = None if budget is None else SpillFiles(budget)
        self._start = self._used()
        self._tracker: ActivationTracker | None = None

    @property
    def spilled_bytes(self) -> int:
        """Peak size in bytes of the files."""
        return 0 if self._files is None else self._files.peak_bytes

    def watching(self) -> AbstractContextManager[object]:
        """Return the context in which to start or resume a batch."""
        if self._budget is None or self._files is None or self._device.type != "cpu":
            return nullcontext()
        if self._tracker is None:
            used = self._used() - self._start
            if _STATM.exists() and used < self._budget.memory_bytes // 2:
                return nullcontext()
            room = max(0, self._budget.memory_bytes - used)
            self._tracker = ActivationTracker(self._files, room)
        return self._tracker

    def stored(self, item: Item) -> Item:
        """Return a batch to keep, copied to files if memory is being tracked."""
        if self._tracker is None or self._files is None:
            return item
        return replace(item, value=pytree.tree_map(self._stored, item.value))

    def _stored(self, leaf: Any) -> Any:
        plain = type(leaf) is torch.Tensor and leaf.device.type == "cpu" and leaf.numel()
        if not plain or self._files is None:
            return leaf
        tensor = leaf.detach().clone()
        copied = self._files.copy(tensor.untyped_storage())
        return torch.empty(0, dtype=leaf.dtype).set_(copied, 0, tensor.shape, tensor.stride())

    def check(self, batch: int) -> None:
        """Enforce the budget after a batch has paused at a layer.

        Raises:
            SpillLimitError: the budget is exceeded.
        """
        if self._tracker is not None:
            self._tracker.enforce_limit()
        elif self._budget is not None and self._device.type != "cpu":
            used = self._used() - self._start
            if used > self._budget.memory_bytes:
                raise SpillLimitError(
                    f"activations of {batch + 1} batches take {used / 2**20:.0f} MiB on "
                    f"{self._device}, the budget is {self._budget.memory_bytes / 2**20:.0f} MiB. "
                    "They cannot be spilled: use fewer samples, raise budget.memory_bytes, or "
                    "move the module to the CPU"
                )

    def _used(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.memory_allocated(self._device))
        if not _STATM.exists():
            return 0
        _, resident, shared, *_ = _STATM.read_text(encoding="ascii").split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
