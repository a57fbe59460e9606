"""Activations that wait at a layer, moved to memory-mapped files when memory is used up.

A stopped forward holds its tensors in local variables of the network's own code, where nobody can
replace them. But what a tensor points at can be replaced: every tensor of a storage is pointed at a
file-backed one with the same contents, and the old storage is gone. The network's code notices
nothing, and reading such a tensor brings its pages back.

To know the tensors of a storage, all outputs of operators are noted while this is active. If one
was missed (an alias that no operator made), the old storage outlives the move; then all are pointed
back at it, so a storage is moved whole or not at all.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bn_ops.engines.malloc import trim_heap
from bn_ops.errors import SpillLimitError
from bn_ops.options import Budget

__all__ = ["SpillFiles", "Watch"]

# Smaller storages would not free a page.
_MIN_STORAGE_BYTES = 4096

# glibc keeps freed memory that lies between used pieces; without this, memory grew by 1.8 MiB per
# batch beyond the budget (batches of 0.3 MiB, activations of 4 MiB). A call takes about 3 ms, so
# it is made when this share of the memory, and at most so many bytes, have been moved.
_TRIM_SHARE = 16
_TRIM_BYTES = 32 << 20


class _WeakStorage:
    """A storage that this reference does not keep alive; its address is not used again."""

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
    """One storage that an operator has made, and the tensors that point at it."""

    storage: _WeakStorage
    nbytes: int
    tensors: list[weakref.ref[torch.Tensor]] = field(default_factory=list)
    movable: bool = True

    def alive(self) -> list[torch.Tensor]:
        found = (reference() for reference in self.tensors)
        return [tensor for tensor in found if tensor is not None]


class SpillFiles:
    """Storages in files that vanish with them.

    Args:
        budget: its spill limit and folder.
    """

    def __init__(self, budget: Budget) -> None:
        self._limit = budget.spill_bytes
        self._folder = budget.spill_folder
        self._live: list[tuple[_WeakStorage, int]] = []
        self.peak_bytes = 0

    def copy(self, storage: torch.UntypedStorage) -> torch.UntypedStorage:
        """Write a storage to a file and return one that maps it.

        Raises:
            SpillLimitError: the limit or the disk has no room.
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
            # Written, not mapped for writing: a full disk is then an error here and not a SIGBUS
            # at some later store.
            with os.fdopen(descriptor, "wb") as file:
                file.write(_bytes_of(storage).data)
            mapped = torch.UntypedStorage.from_file(name, shared=True, nbytes=storage.nbytes())
            assert isinstance(mapped, torch.UntypedStorage)
            return mapped
        finally:
            # The mapping keeps the contents; whatever happens, no file is left behind.
            Path(name).unlink()


def _bytes_of(storage: torch.UntypedStorage) -> np.ndarray[Any, np.dtype[np.uint8]]:
    raw = torch.empty(0, dtype=torch.uint8).set_(storage)
    return raw.numpy()


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's hook of subclasses
    """Notes what operators make, and moves what waits to files. Enter it around each forward.

    Args:
        files: where to move it.
        memory_bytes: what may stay in memory.
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
                # A view of something that is not ours: a weight, a buffer, the caller's batch.
                return
            held = self._held[key] = _Held(_WeakStorage(storage), storage.nbytes())
        held.tensors.append(weakref.ref(tensor))

    def make_room(self) -> None:
        """Move storages, the latest first, until the others fit into memory.

        A run passes the batches in turn, over and over: keeping what came first loses the least.

        Raises:
            SpillLimitError: files have no room, or what cannot be moved is too large.
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
        """Now and then let the allocator return to the system what it keeps in small pieces."""
        self._moved_bytes += nbytes
        if self._moved_bytes >= min(_TRIM_BYTES, self._memory_bytes // _TRIM_SHARE):
            self._moved_bytes = 0
            trim_heap()

    def _move(self, held: _Held) -> bool:
        """Point all tensors of a storage at a file, or none; tell which."""
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
    """Yield the storages of an operator's inputs."""
    for leaf in args:
        if isinstance(leaf, list | tuple):
            yield from _storages(tuple(leaf))
        elif type(leaf) in (torch.Tensor, torch.nn.Parameter) and _is_plain(leaf):
            yield _address(leaf.untyped_storage())


def _point(tensors: Iterable[torch.Tensor], storage: torch.UntypedStorage) -> None:
    """Point tensors at another storage with the same contents; no version is counted up."""
    for tensor in tensors:
        place = tensor.storage_offset(), tensor.shape, tensor.stride()
        if tensor.is_inference():
            with torch.inference_mode():
                tensor.set_(storage, *place)
        else:
            with torch.no_grad(), _unsafe_preserve_version_counter(tensor):
                tensor.set_(storage, *place)
