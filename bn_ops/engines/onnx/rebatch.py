"""Cut a stream into batches of another size.

The result of a recalibration does not depend on how the stream is cut, which two cases use:

* Many exporters fix the first axis of a model's inputs, most often to 1. `rebatch` cuts the stream
  into batches of that size. Only the last one can be short; it is padded with copies of its last
  sample, which are left out of every measurement.
* Where a graph treats samples independently, `group_samples` forms groups of up to 16 samples. This
  bounds the memory that one huge batch needs and avoids one run per tiny batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import Batch, TensorInfo
from bn_ops.errors import ModelUnsupportedError

__all__ = [
    "GROUP_SAMPLES",
    "PaddedBatch",
    "SampleGroup",
    "fixed_batch_size",
    "group_samples",
    "rebatch",
    "singles",
]

# The size of a usual batch; a larger group would only make the unit of spilling larger.
GROUP_SAMPLES = 16

_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedBatch:
    """One batch in the size that the model takes.

    Attributes:
        arrays: the inputs.
        samples: number of real samples; the rows after them are padding.
        padded: whether there is any padding.
    """

    arrays: Batch
    samples: int
    padded: bool = False


def fixed_batch_size(inputs: Sequence[TensorInfo]) -> int | None:
    """Return the number of samples that the model requires per run, or None if it is free.

    Raises:
        ModelUnsupportedError: two inputs require different numbers.
    """
    sizes = {info.shape[0] for info in inputs if info.shape and isinstance(info.shape[0], int)}
    if len(sizes) > 1:
        raise ModelUnsupportedError(
            f"the model's inputs require different numbers of samples: {sorted(map(str, sizes))}"
        )
    size = next(iter(sizes), None)
    return size if isinstance(size, int) else None


def rebatch(batches: Iterable[Batch], size: int | None) -> Iterator[PaddedBatch]:
    """Yield batches of exactly `size` samples in stream order, or each batch unchanged for None."""
    pending: list[Batch] = []
    held = 0
    for batch in batches:
        samples = _samples(batch)
        if size is None:
            yield PaddedBatch(arrays=batch, samples=samples)
            continue
        pending.append(batch)
        held += samples
        if held < size:
            continue
        joined = _join(pending)
        whole = held - held % size
        for start in range(0, whole, size):
            yield PaddedBatch(arrays=_rows(joined, start, start + size), samples=size)
        pending = [_rows(joined, whole, held)] if whole < held else []
        held -= whole
    if size is not None and held:
        yield _padded(_join(pending), held, size)


def _join(parts: Sequence[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return {name: array[start:stop] for name, array in batch.items()}


def _padded(batch: Batch, samples: int, size: int) -> PaddedBatch:
    copies = size - samples
    arrays = {
        name: np.concatenate([array, np.repeat(array[-1:], copies, axis=0)])
        for name, array in batch.items()
    }
    return PaddedBatch(arrays=arrays, samples=samples, padded=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleGroup:
    """Consecutive samples of the stream, copied.

    Attributes:
        arrays: the model's inputs, C-contiguous copies: a stream may reuse the memory of a batch.
        batches: for each sample, the index of the batch that it came in.
        completed: number of batches whose last sample is in this group.
    """

    arrays: dict[str, NDArray[np.generic]]
    batches: tuple[int, ...]
    completed: int

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.batches)


def group_samples(
    batches: Iterable[Batch],
    size: int = GROUP_SAMPLES,
    *,
    start: int = 0,
    chunk: int | None = None,
) -> Iterator[SampleGroup]:
    """Yield groups of at most `size` samples; all samples of a group have the same shapes.

    Args:
        batches: the stream.
        size: the largest number of samples of a group.
        start: position of the first sample.
        chunk: no group holds samples on both sides of a position that is a multiple of it; None for
            no such restriction.
    """
    pending: list[tuple[int, Batch]] = []
    completed = 0
    position, room = start, size
    for index, batch in enumerate(batches):
        done, samples = 0, _samples(batch)
        while done < samples:
            if pending and (not room or _shapes(pending[0][1]) != _shapes(batch)):
                yield _group(pending, completed)
                pending, completed = [], 0
            if not pending:
                room = size if chunk is None else min(size, chunk - position % chunk)
            stop = min(samples, done + room)
            # Copied now: the stream may reuse this memory for its next batch.
            part = {name: np.array(array[done:stop], order="C") for name, array in batch.items()}
            pending.append((index, part))
            position, room, done = position + stop - done, room - (stop - done), stop
        completed += 1
        if pending and not room:
            yield _group(pending, completed)
            pending, completed = [], 0
    if pending:
        yield _group(pending, completed)


def singles(batch: Batch) -> list[Batch]:
    """Return each sample of a batch as a batch of one, over the same memory."""
    return [{n: array[i : i + 1] for n, array in batch.items()} for i in range(_samples(batch))]


def _samples(batch: Batch) -> int:
    return int(next(iter(batch.values())).shape[0])


def _shapes(batch: Batch) -> _Shapes:
    return tuple(batch[name].shape[1:] for name in sorted(batch))


def _group(parts: list[tuple[int, Batch]], completed: int) -> SampleGroup:
    names = parts[0][1]
    return SampleGroup(
        arrays={
            name: parts[0][1][name]
            if len(parts) == 1
            else np.concatenate([part[name] for _, part in parts])
            for name in names
        },
        batches=tuple(index for index, part in parts for _ in range(_samples(part))),
        completed=completed,
    )
