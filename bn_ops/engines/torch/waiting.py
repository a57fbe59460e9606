"""A budget for the memory of what waits at a layer.

On the CPU nothing is done while memory use is below half of the budget; from there on what
operators make is noted, and what goes beyond the budget is moved to files. On other devices nothing
can be moved to a file, so the limit is watched, and passing it ends the run before the device runs
out.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from bn_ops.engines.torch.spill import SpillFiles, Watch
from bn_ops.errors import SpillLimitError
from bn_ops.options import Budget
from bn_ops.torch_modules.arguments import Item

__all__ = ["Waiting"]

# Second and third field: resident pages, and those of them that files back. Where there is no such
# file, activations are noted from the first batch on.
_STATM = Path("/proc/self/statm")


class Waiting:
    """The memory of one run's waiting batches.

    Args:
        budget: memory and files; None means no limit.
        device: where the activations lie.
    """

    def __init__(self, budget: Budget | None, device: torch.device) -> None:
        self._budget = budget
        self._device = device
        self._files = None if budget is None else SpillFiles(budget)
        self._start = self._used()
        self._watch: Watch | None = None

    @property
    def spilled_bytes(self) -> int:
        """The most bytes that lay in files at one time."""
        return 0 if self._files is None else self._files.peak_bytes

    def watching(self) -> AbstractContextManager[object]:
        """Return the context in which a batch runs on."""
        if self._budget is None or self._files is None or self._device.type != "cpu":
            return nullcontext()
        if self._watch is None:
            used = self._used() - self._start
            if _STATM.exists() and used < self._budget.memory_bytes // 2:
                return nullcontext()
            room = max(0, self._budget.memory_bytes - used)
            self._watch = Watch(self._files, room)
        return self._watch

    def stored(self, item: Item) -> Item:
        """Return a batch to be kept, in files where memory is being watched."""
        if self._watch is None or self._files is None:
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
        """Make room when a batch has stopped at a layer.

        Raises:
            SpillLimitError: there is none.
        """
        if self._watch is not None:
            self._watch.make_room()
        elif self._budget is not None and self._device.type != "cpu":
            used = self._used() - self._start
            if used > self._budget.memory_bytes:
                raise SpillLimitError(
                    f"activations of {batch + 1} batches take {used / 2**20:.0f} MiB on "
                    f"{self._device}, the budget is {self._budget.memory_bytes / 2**20:.0f} MiB. "
                    "They stay in its memory: use fewer samples, raise budget.memory_bytes, or "
                    "move the module to the CPU, where they are spilled to files"
                )

    def _used(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.memory_allocated(self._device))
        if not _STATM.exists():
            return 0
        _, resident, shared, *_ = _STATM.read_text(encoding="ascii").split()
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
