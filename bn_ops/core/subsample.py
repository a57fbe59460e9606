"""A seeded choice of at most N samples of a stream that does not depend on their order.

Each sample has a key: the sha256 of the seed, of the sha256 of its bytes, and of the number of
equal samples before it. The samples with the smallest keys are chosen, in the order of their keys.
The keys of a stream are the same set for every order of its samples and for every split into
batches, so the choice is, too, and every subset of the stream is equally likely over the seeds.
Equal samples have different keys, so that each counts as often as it occurs.

Source: Cohen and Kaplan 2007, "Summarizing Data using Bottom-k Sketches" (the k smallest hashes are
a uniform sample without replacement).
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.options import Budget
from bn_ops.errors import SpillLimitError

__all__ = [
    "OccurrenceCounter",
    "Place",
    "SampleBytes",
    "SampleStore",
    "sample_key",
    "standard_error",
]

SampleBytes: TypeAlias = NDArray[np.uint8]
"""The bytes of one sample, in one dimension."""

Place: TypeAlias = SampleBytes | tuple[int, int]
"""Where a sample is kept: its bytes, or offset and size in a file."""

# Waiting samples beyond this, or beyond this share of the memory budget, are in a file: they are
# needed once, while the budget is for tensors that are needed at every level.
_MEMORY_BYTES = 64 << 20
_BUDGET_SHARE = 4

# Digests are merged into the sorted array in portions of at least this many, and of at least this
# share of it, so that a stream of n samples copies O(n) of them.
_MIN_PORTION = 1 << 16
_PORTION_SHARE = 4


def sample_key(seed: int, digest: bytes, occurrence: int) -> bytes:
    """Return the key of a sample.

    Args:
        seed: seed of the choice, 0 ≤ seed < 2^64.
        digest: sha256 of the sample's bytes.
        occurrence: number of equal samples before it in the stream.
    """
    content = seed.to_bytes(8, "big") + digest + occurrence.to_bytes(8, "big")
    return hashlib.sha256(content).digest()


def standard_error(samples: int) -> float:
    """Return the standard error of a mean over independent samples, in units of their σ."""
    return 1 / math.sqrt(samples)


class OccurrenceCounter:
    """Counts equal samples, in 8 bytes for each that occurs once.

    The first 64 bits of digests are compared: at 10 million samples, two of them are confused with
    a probability of 3·10⁻⁶, and then only the second one gets another key.
    """

    def __init__(self) -> None:
        self._sorted: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._recent: set[int] = set()
        self._repeats: dict[int, int] = {}

    def count(self, digest: bytes) -> int:
        """Count a sample; return the number of equal samples before it."""
        key = int.from_bytes(digest[:8], "big")
        known = self._repeats.get(key)
        if known is None and (key in self._recent or self._is_sorted(key)):
            known = 1
        if known is not None:
            self._repeats[key] = known + 1
            return known
        self._recent.add(key)
        if len(self._recent) >= max(_MIN_PORTION, len(self._sorted) // _PORTION_SHARE):
            recent = np.fromiter(self._recent, np.uint64, len(self._recent))
            self._sorted = np.sort(np.concatenate([self._sorted, recent]))
            self._recent.clear()
        return 0

    def _is_sorted(self, key: int) -> bool:
        place = int(np.searchsorted(self._sorted, np.uint64(key)))
        return place < len(self._sorted) and int(self._sorted[place]) == key


@dataclass(slots=True)
class _File:
    """An unnamed file, and its unused places by size."""

    file: Any
    size: int
    free: defaultdict[int, list[int]]


class SampleStore:
    """Keeps the bytes of samples, in memory up to a limit, then in an unnamed file.

    Use as a context manager: leaving it removes the file.

    Args:
        budget: its folder and limit hold for the file; at most a quarter of its memory, and 64 MiB,
            are used.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._room = min(_MEMORY_BYTES, budget.memory_bytes // _BUDGET_SHARE)
        self._spilled: _File | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._spilled is not None:
            self._spilled.file.close()

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return 0 if self._spilled is None else self._spilled.size

    def keep(self, data: SampleBytes) -> Place:
        """Keep a sample.

        Raises:
            SpillLimitError: the limit is reached or the disk is full.
        """
        if data.nbytes <= self._room:
            self._room -= data.nbytes
            return data
        try:
            return self._write(data)
        except OSError as error:
            folder = self._budget.spill_folder or "the temporary folder"
            raise SpillLimitError(f"cannot write samples to {folder}: {error}") from error

    def take(self, place: Place) -> SampleBytes:
        """Return a sample and remove it."""
        if isinstance(place, np.ndarray):
            self._room += place.nbytes
            return place
        offset, size = place
        assert self._spilled is not None  # it has a place in the file
        self._spilled.file.seek(offset)
        data = np.frombuffer(self._spilled.file.read(size), np.uint8)
        self._spilled.free[size].append(offset)
        return data

    def drop(self, place: Place) -> None:
        """Remove a sample."""
        if isinstance(place, np.ndarray):
            self._room += place.nbytes
        elif self._spilled is not None:
            self._spilled.free[place[1]].append(place[0])

    def _write(self, data: SampleBytes) -> Place:
        if self._spilled is None:
            folder = self._budget.spill_folder
            file = tempfile.TemporaryFile(prefix="bnrecal-", dir=folder)  # noqa: SIM115 - until exit
            self._spilled = _File(file, 0, defaultdict(list))
        spilled = self._spilled
        if free := spilled.free[data.nbytes]:
            offset = free.pop()
        else:
            offset = spilled.size
            if offset + data.nbytes > self._budget.spill_bytes:
                raise SpillLimitError(
                    f"the chosen samples need more than {self._budget.spill_bytes:,} bytes of "
                    "files: raise the budget or lower max_samples"
                )
            spilled.size += data.nbytes
        spilled.file.seek(offset)
        spilled.file.write(data.data)
        # A full disk is an error of this sample, not of a later one.
        spilled.file.flush()
        return offset, data.nbytes
