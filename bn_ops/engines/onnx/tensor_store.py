"""Store the tensors that wait at the frontier, in memory up to a budget, then in files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.options import Budget
from bn_ops.engines.malloc import trim_heap
from bn_ops.errors import SpillLimitError

__all__ = ["TensorStore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spilled:
    path: Path
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    nbytes: int


class TensorStore:
    """Tensors by (batch, name).

    A run repeatedly reads the batches of a level in the order in which it stored them. For that
    pattern, keeping the first tensors in memory and spilling the rest causes the fewest reads from
    files (least-recently-used eviction would always miss). Use as a context manager: leaving it
    removes the files.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held: dict[tuple[int, str], NDArray[np.generic] | _Spilled] = {}
        self._memory = 0
        self._spilled = 0
        self._folder: Path | None = None
        self._written = 0
        self.stored_bytes = 0
        self.peak_memory_bytes = 0
        self.peak_spill_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def waiting_bytes(self) -> int:
        """Return the size of the tensors that are stored now, in memory and in files."""
        return self._memory + self._spilled

    def fits(self, nbytes: int) -> bool:
        """Return whether `nbytes` more bytes fit into the memory budget."""
        return self._memory + nbytes <= self._budget.memory_bytes

    def share_of_budget(self, nbytes: int) -> int:
        """Return `nbytes`, at most a quarter of the memory budget."""
        return min(nbytes, self._budget.memory_bytes // 4)

    def put(
        self, batch: int, name: str, array: NDArray[np.generic], *, in_memory: bool = True
    ) -> None:
        """Store a tensor in memory if allowed and within the budget, otherwise in a file.

        Raises:
            SpillLimitError: the spill limit is reached or the disk is full.
        """
        key = (batch, name)
        nbytes = array.nbytes
        self.stored_bytes += nbytes
        if in_memory and self.fits(nbytes):
            self._held[key] = array
            self._memory += nbytes
            self.peak_memory_bytes = max(self.peak_memory_bytes, self._memory)
            return
        self._held[key] = self._spill(np.ascontiguousarray(array))
        # Memory is short: return what the C library holds back.
        trim_heap()

    def get(self, batch: int, name: str) -> NDArray[np.generic]:
        """Return a stored tensor; a spilled one is memory-mapped."""
        held = self._held[batch, name]
        if isinstance(held, _Spilled):
            return np.memmap(held.path, dtype=held.dtype, mode="r", shape=held.shape)
        return held

    def drop(self, batch: int, name: str) -> NDArray[np.generic] | None:
        """Remove a tensor; return its array for reuse, or None if it was spilled."""
        held = self._held.pop((batch, name))
        if isinstance(held, _Spilled):
            self._spilled -= held.nbytes
            held.path.unlink()
            return None
        self._memory -= held.nbytes
        return held

    def close(self) -> None:
        """Remove all tensors and files."""
        for held in self._held.values():
            if isinstance(held, _Spilled):
                with contextlib.suppress(OSError):
                    held.path.unlink()
        self._held.clear()
        self._memory = self._spilled = 0
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.rmdir()
            self._folder = None

    def _spill(self, array: NDArray[np.generic]) -> _Spilled:
        if self._spilled + array.nbytes > self._budget.spill_bytes:
            raise SpillLimitError(
                "the tensors at the frontier need more than "
                f"{self._budget.memory_bytes:,} bytes of memory and "
                f"{self._budget.spill_bytes:,} bytes of files; "
                "raise the budget or send fewer samples"
            )
        path = self._new_path()
        try:
            # Written instead of mapped for writing: a full disk then raises here instead of causing
            # a SIGBUS at a later store.
            with path.open("wb") as file:
                file.write(array.reshape(-1).view(np.uint8).data)
        except OSError as error:
            with contextlib.suppress(OSError):
                path.unlink()
            raise SpillLimitError(f"cannot spill to {path.parent}: {error}") from error
        self._spilled += array.nbytes
        self.peak_spill_bytes = max(self.peak_spill_bytes, self._spilled)
        return _Spilled(path=path, dtype=array.dtype, shape=array.shape, nbytes=array.nbytes)

    def _new_path(self) -> Path:
        if self._folder is None:
            try:
                self._folder = Path(
                    tempfile.mkdtemp(
                        prefix=f"bnrecal-{os.getpid()}-", dir=self._budget.spill_folder
                    )
                )
            except OSError as error:
                raise SpillLimitError(f"cannot create a folder to spill to: {error}") from error
        self._written += 1
        return self._folder / f"{self._written}.bin"
