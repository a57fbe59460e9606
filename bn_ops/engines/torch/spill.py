"""Move waiting activations to memory-mapped files when memory is short.

A paused forward keeps its tensors in local variables of the network's own code, where they cannot
be replaced. But a tensor's storage can be: every tensor of a storage is pointed at a file-backed
storage with the same contents, and the old storage is freed. The network's code is unaffected, and
reading such a tensor loads its pages again.

All outputs of operators are tracked meanwhile to know the tensors of a storage. If one is missed
(an alias that no operator made), the old storage stays alive after the move; then all tensors are
pointed back at it, so a storage is moved completely or not at all.

This is the one module that uses private torch API: `_new_with_weak_ptr`, `_cdata`, `StorageWeakRef`
and `_unsafe_preserve_version_counter`. Torch has no public API to observe the lifetime of a storage
or to replace it under a live tensor without incrementing its version. The tests of spilling cover
each of them, so that a torch release that changes one is noticed.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bn_ops.core.options import Budget
from bn_ops.engines.malloc import RetainedHeap, allocated_bytes, trim_heap
from bn_ops.errors import SpillLimitError
from bn_ops.torch_modules.arguments import Item

__all__ = ["ActivationTracker", "SpillFiles", "Waiting"]

# Moving a smaller storage would not free a page.
_MIN_STORAGE_BYTES = 4096

# glibc keeps freed memory between used blocks; without trimming, memory grew by 1.8 MiB per batch
# beyond the budget (batches of 0.3 MiB, activations of 4 MiB). A call takes about 3 ms, so it is
# made after this share of the memory budget, and at most this many bytes, have been moved.
_TRIM_SHARE = 16
_TRIM_BYTES = 32 << 20


class _WeakStorage:
    """A weak reference to a storage; the storage's address is not reused while it exists."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self._reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]

    def expired(self) -> bool:
        return bool(self._reference.expired())  # type: ignore[no-untyped-call]

    def __call__(self) -> torch.UntypedStorage | None:
        pointer = self._reference.cdata
        found: object = torch.UntypedStorage._new_with_weak_ptr(pointer)  # noqa: SLF001
        return found if isinstance(found, torch.UntypedStorage) else None


def _address(storage: torch.UntypedStorage) -> int:
    return int(storage._cdata)  # noqa: SLF001 - data_ptr is the same for all empty storages


@dataclass(slots=True)
class _Held:
    """A storage that an operator has created, and the tensors that use it."""

    storage: _WeakStorage
    nbytes: int
    tensors: list[weakref.ref[torch.Tensor]] = field(default_factory=list)
    movable: bool = True

    def alive(self) -> list[torch.Tensor]:
        found = (reference() for reference in self.tensors)
        return [tensor for tensor in found if tensor is not None]


class SpillFiles:
    """Storages in unlinked files, which disappear with their last use.

    Args:
        budget: provides the spill limit and folder.
    """

    def __init__(self, budget: Budget) -> None:
        self._limit = budget.spill_bytes
        self._folder = budget.spill_folder
        self._live: list[tuple[_WeakStorage, int]] = []
        self.peak_bytes = 0

    def copy(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        """Write a storage to a file and return a storage that maps the file.

        Raises:
            SpillLimitError: the spill limit is reached or the disk is full.
        """
        self._live = [(ref, size) for ref, size in self._live if not ref.expired()]
        nbytes = storage.nbytes()
        total = nbytes + sum(size for _, size in self._live)
        if total > self._limit:
            raise SpillLimitError(
                f"waiting activations need more than {self._limit:,} bytes of files: raise "
                "budget.spill_bytes or send fewer samples"
            )
        try:
            copied = self._written(storage)
        except (OSError, RuntimeError) as error:
            raise SpillLimitError(f"cannot spill to {self._folder or 'files'}: {error}") from error
        self._live.append((_WeakStorage(copied), nbytes))
        self.peak_bytes = max(self.peak_bytes, total)
        return copied

    def _written(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        descriptor, name = tempfile.mkstemp(prefix=f"bnrecal-{os.getpid()}-", dir=self._folder)
        try:
            # Written instead of mapped for writing: a full disk then raises here instead of causing
            # a SIGBUS at a later store.
            with os.fdopen(descriptor, "wb") as file:
                file.write(_bytes_of(storage).data)
            mapped = torch.UntypedStorage.from_file(name, shared=True, nbytes=storage.nbytes())
            assert isinstance(mapped, torch.UntypedStorage)
            return mapped
        finally:
            # The mapping keeps the contents, and no file is left behind even after a crash.
            Path(name).unlink()


def _bytes_of(storage: torch.UntypedStorage) -> np.ndarray[Any, np.dtype[np.uint8]]:
    raw = torch.empty(0, dtype=torch.uint8).set_(storage)
    return raw.numpy()


class ActivationTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's hook of subclasses
    """Tracks the outputs of operators and moves waiting ones to files; entered around forwards.

    Args:
        files: where to move them.
        memory_bytes: size that may stay in memory.
    """

    def __init__(self, files: SpillFiles, memory_bytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._moved_bytes = 0
        self._files = files
        self._memory_bytes = memory_bytes
        self._held: dict[int, _Held] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in (made,) if isinstance(made, torch.Tensor) else pytree.tree_leaves(made):
            if type(tensor) is torch.Tensor and _is_plain(tensor):
                self._note(tensor, args)
        return made

    def _note(self, tensor: torch.Tensor, args: tuple[Any, ...]) -> None:
        storage = tensor.untyped_storage()
        key = _address(storage)
        held = self._held.get(key)
        if held is None:
            if storage.nbytes() < _MIN_STORAGE_BYTES or key in set(_storages(args)):
                # A view of a weight, a buffer or the caller's batch, which must not be moved.
                return
            held = self._held[key] = _Held(_WeakStorage(storage), storage.nbytes())
        held.tensors.append(weakref.ref(tensor))

    def enforce_limit(self) -> None:
        """Move storages to files, the most recent first, until the rest fits into memory.

        A run visits all batches in turn, so keeping the oldest causes the fewest reloads.

        Raises:
            SpillLimitError: the files are full, or storages that cannot be moved are too large.
        """
        self._held = {key: held for key, held in self._held.items() if not held.storage.expired()}
        used = sum(held.nbytes for held in self._held.values())
        for key, held in reversed(list(self._held.items())):
            if used <= self._memory_bytes:
                return
            if held.movable and self._move(held):
                used -= held.nbytes
                del self._held[key]
                self._give_back(held.nbytes)
        if used > self._memory_bytes:
            raise SpillLimitError(
                f"{used / 2**20:.1f} MiB of waiting activations cannot be moved to files, the "
                f"budget is {self._memory_bytes / 2**20:.1f} MiB: raise budget.memory_bytes or use "
                "fewer samples"
            )

    def _give_back(self, nbytes: int) -> None:
        """Periodically let the allocator return its free memory to the system."""
        self._moved_bytes += nbytes
        if self._moved_bytes >= min(_TRIM_BYTES, self._memory_bytes // _TRIM_SHARE):
            self._moved_bytes = 0
            trim_heap()

    def _move(self, held: _Held) -> bool:
        """Point all tensors of a storage at a file, or none; return whether they were moved."""
        old = held.storage()
        if old is None:
            return True
        tensors = held.alive()
        new = self._files.copy(old)
        _point(tensors, new)
        del old
        old = held.storage()
        if old is not None:
            _point(tensors, old)
            held.movable = False
        return held.movable


def _is_plain(tensor: torch.Tensor) -> bool:
    return (
        tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    )


def _storages(args: tuple[Any, ...]) -> Iterator[int]:
    """Yield the addresses of the storages of an operator's inputs."""
    for leaf in args:
        if isinstance(leaf, list | tuple):
            yield from _storages(tuple(leaf))
        elif type(leaf) in (torch.Tensor, torch.nn.Parameter) and _is_plain(leaf):
            yield _address(leaf.untyped_storage())


def _point(tensors: Iterable[torch.Tensor], storage: torch.UntypedStorage) -> None:
    """Point tensors at another storage with the same contents, without changing their versions."""
    for tensor in tensors:
        place = tensor.storage_offset(), tensor.shape, tensor.stride()
        if tensor.is_inference():
            with torch.inference_mode():
                tensor.set_(storage, *place)
        else:
            with torch.no_grad(), _unsafe_preserve_version_counter(tensor):
                tensor.set_(storage, *place)


# The memory budget of the activations that wait at a layer.
#
# On the CPU nothing happens while memory use is below half of the budget. Above that, the outputs
# of operators are tracked, and those beyond the budget are moved to files. On other devices nothing
# can be moved to files; exceeding the budget ends the run before the device runs out of memory.
#
# On the CPU the heap is retained while memory use is below the budget: batches that take turns free
# and allocate the same large tensors, and fresh memory for each of them took a fifth of the time of
# MobileNetV2.

# Second and third field: resident pages, and the file-backed ones among them. Without this file,
# activations are tracked from the first batch on.
_STATM = Path("/proc/self/statm")
_HAS_STATM = _STATM.exists()

# Free memory that may remain before it is returned: less is not worth the call.
_GAPS_BYTES = 8 << 20


class Waiting:
    """Keeps the waiting batches of one run within their budget; close it at the end of the run.

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
        self._heap = RetainedHeap()
        if budget is not None and device.type == "cpu" and _HAS_STATM:
            self._heap.acquire()
        self._allocated = allocated_bytes() if self._heap.held else 0
        self._peak = self._foreign = 0

    def close(self) -> None:
        """Return the memory that was retained for reuse to the system."""
        self._heap.release()
        if self._tracker is not None:
            # The heap may have been released before, when the budget was exhausted.
            trim_heap()

    @property
    def spilled_bytes(self) -> int:
        """Peak size in bytes of the files."""
        return 0 if self._files is None else self._files.peak_bytes

    @property
    def moves_tensors(self) -> bool:
        """Whether waiting tensors are moved to files; they are read-only there."""
        return self._tracker is not None

    def watching(self) -> AbstractContextManager[object]:
        """Return the context in which to start or resume a batch."""
        if self._budget is None or self._files is None or self._device.type != "cpu":
            return nullcontext()
        used = self._used() - self._start
        if used >= self._budget.memory_bytes:
            self._heap.release()
        if self._tracker is None:
            if _HAS_STATM and used < self._budget.memory_bytes // 2:
                return nullcontext()
            # What the heap retains is not in use.
            trim_heap()
            room = max(0, self._budget.memory_bytes - (self._used() - self._start))
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
        if self._heap.held:
            self._limit_gaps()
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

    def _limit_gaps(self) -> None:
        """Return free memory to the system where the process holds more than it ever needed.

        A network whose activations grow leaves gaps that are too small for the next ones.
        """
        if self._used() - self._start <= self._peak + self._foreign + _GAPS_BYTES:
            # The peak can only be larger; glibc would walk through all free blocks to count it.
            return
        allocated = allocated_bytes() - self._allocated
        self._peak = max(self._peak, allocated)
        if self._used() - self._start > self._peak + self._foreign + _GAPS_BYTES:
            trim_heap()
            # Memory that is not the heap's, such as compiled kernels.
            self._foreign = max(0, self._used() - self._start - allocated)

    def _used(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.memory_allocated(self._device))
        return _private_bytes() if _HAS_STATM else 0


def _private_bytes() -> int:
    """Return the resident memory of this process, without mapped files."""
    # Called at every pause of every batch, and `Path.read_text` takes ten times as long.
    descriptor = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _, resident, shared, *_ = os.read(descriptor, 256).split()
    finally:
        os.close(descriptor)
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
