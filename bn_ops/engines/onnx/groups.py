"""A stream cut anew into groups of a convenient number of samples.

Where samples do not mix, how they come is of no matter. Groups bound the memory of a stream of huge
batches, and spare one of tiny batches the cost of a run each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import Batch

__all__ = ["GROUP_SAMPLES", "SampleGroup", "grouped"]

# As many as a usual batch: more would only make the unit of spilling larger.
GROUP_SAMPLES = 16

_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleGroup:
    """Some samples in the stream's order, in memory of their own.

    Attributes:
        arrays: the model's inputs, C-contiguous; copies, since a stream may fill one array again
            and again.
        batches: for each sample, the number of the batch that it came in.
        ends: how many batches have been read to their end with this group.
    """

    arrays: dict[str, NDArray[np.generic]]
    batches: tuple[int, ...]
    ends: int

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.batches)


def grouped(batches: Iterable[Batch], size: int = GROUP_SAMPLES) -> Iterator[SampleGroup]:
    """Yield groups of at most `size` samples; samples of different shapes never share a group."""
    waiting: list[tuple[int, Batch]] = []
    ended = 0
    for number, batch in enumerate(batches):
        start, samples = 0, _samples(batch)
        while start < samples:
            held = sum(_samples(part) for _, part in waiting)
            if held == size or (waiting and _shapes(waiting[0][1]) != _shapes(batch)):
                yield _group(waiting, ended)
                waiting, ended, held = [], 0, 0
            stop = min(samples, start + size - held)
            # Copied now: when the next batch is asked for, the stream may use its memory again.
            part = {name: np.array(array[start:stop], order="C") for name, array in batch.items()}
            waiting.append((number, part))
            start = stop
        ended += 1
        if sum(_samples(part) for _, part in waiting) == size:
            yield _group(waiting, ended)
            waiting, ended = [], 0
    if waiting:
        yield _group(waiting, ended)


def _samples(batch: Batch) -> int:
    return int(next(iter(batch.values())).shape[0])


def _shapes(batch: Batch) -> _Shapes:
    return tuple(batch[name].shape[1:] for name in sorted(batch))


def _group(parts: list[tuple[int, Batch]], ends: int) -> SampleGroup:
    names = parts[0][1]
    return SampleGroup(
        arrays={
            name: parts[0][1][name]
            if len(parts) == 1
            else np.concatenate([part[name] for _, part in parts])
            for name in names
        },
        batches=tuple(number for number, part in parts for _ in range(_samples(part))),
        ends=ends,
    )
