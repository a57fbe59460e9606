"""Batches of the size that a model demands.

Many exporters fix the first axis, to 1 more often than not. Recalibration does not depend on how
the stream is cut, so the samples are simply cut anew. Only the last group can be short: it is
filled up with copies of its last sample, which run through the network and are left out of every
measurement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bn_ops.core.signature import Batch, TensorInfo
from bn_ops.errors import ModelUnsupportedError

__all__ = ["Group", "demanded_size", "regroup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Arrays as the model takes them.

    Attributes:
        arrays: the inputs.
        samples: how many of the first samples are real; the rest is filling.
        filled: whether there is any filling.
    """

    arrays: Batch
    samples: int
    filled: bool = False


def demanded_size(inputs: Sequence[TensorInfo]) -> int | None:
    """Return the number of samples that the model demands per run, or None if it is free.

    Raises:
        ModelUnsupportedError: two inputs demand different numbers.
    """
    sizes = {info.shape[0] for info in inputs if info.shape and isinstance(info.shape[0], int)}
    if len(sizes) > 1:
        raise ModelUnsupportedError(
            f"the model's inputs demand different numbers of samples: {sorted(map(str, sizes))}"
        )
    size = next(iter(sizes), None)
    return size if isinstance(size, int) else None


def regroup(batches: Iterable[Batch], size: int | None) -> Iterator[Group]:
    """Yield groups of exactly `size` samples in the stream's order, or each batch as it is."""
    waiting: list[Batch] = []
    held = 0
    for batch in batches:
        samples = next(iter(batch.values())).shape[0]
        if size is None:
            yield Group(arrays=batch, samples=samples)
            continue
        waiting.append(batch)
        held += samples
        if held < size:
            continue
        joined = _join(waiting)
        whole = held - held % size
        for start in range(0, whole, size):
            yield Group(arrays=_cut(joined, start, start + size), samples=size)
        waiting = [_cut(joined, whole, held)] if whole < held else []
        held -= whole
    if size is not None and held:
        yield _fill(_join(waiting), held, size)


def _join(parts: Sequence[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _cut(batch: Batch, start: int, stop: int) -> Batch:
    return {name: array[start:stop] for name, array in batch.items()}


def _fill(batch: Batch, samples: int, size: int) -> Group:
    copies = size - samples
    filled = {
        name: np.concatenate([array, np.repeat(array[-1:], copies, axis=0)])
        for name, array in batch.items()
    }
    return Group(arrays=filled, samples=samples, filled=True)
