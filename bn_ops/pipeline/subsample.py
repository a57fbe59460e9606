"""Measure a choice of the stream's samples; see `bn_ops.core.subsample`."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bn_ops.core.engine import JOINED_SAMPLES, BatchAdapter
from bn_ops.core.options import Budget, Progress, ProgressCallback
from bn_ops.core.subsample import (
    OccurrenceCounter,
    Place,
    SampleStore,
    sample_key,
    standard_error,
)
from bn_ops.diagnostics.report import Subsample
from bn_ops.errors import OptionError

__all__ = ["ChosenSamples"]

BatchT = TypeVar("BatchT")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """A sample that is among the chosen ones so far.

    Attributes:
        position: in the stream.
        form: what the adapter needs besides the bytes.
        place: where its bytes are.
    """

    position: int
    form: Any
    place: Place


class ChosenSamples(Generic[BatchT]):
    """Yields the chosen samples of a stream, in the order of their keys, in batches of up to 16.

    The stream is read completely before the first batch is yielded. Can be iterated once.

    Args:
        source: the stream.
        adapter: how to handle one batch.
        max_samples: number of samples to choose.
        seed: seed of the choice.
        budget: limits of the memory and files for waiting samples.
        progress: called for each batch of the stream.
    """

    def __init__(
        self,
        source: Iterable[BatchT],
        adapter: BatchAdapter[BatchT],
        *,
        max_samples: int,
        seed: int,
        budget: Budget,
        progress: ProgressCallback,
    ) -> None:
        self._source = source
        self._adapter = adapter
        self._max_samples = max_samples
        self._seed = seed
        self._budget = budget
        self._progress = progress
        self._kept: dict[int, _Kept] = {}
        self._seen = 0
        self.positions: list[int] = []

    def __iter__(self) -> Iterator[BatchT]:
        with SampleStore(self._budget) as store:
            self._read(store)
            kept = [self._kept[key] for key in sorted(self._kept)]
            self._kept.clear()
            self.positions = [one.position for one in kept]
            for start in range(0, len(kept), JOINED_SAMPLES):
                group = kept[start : start + JOINED_SAMPLES]
                samples = [self._adapter.unpack(one.form, store.take(one.place)) for one in group]
                yield from self._adapter.join(samples)

    def report(self) -> Subsample:
        """Return what was chosen; call it after the iteration."""
        chosen = len(self.positions)
        return Subsample(
            max_samples=self._max_samples,
            seed=self._seed,
            seen=self._seen,
            chosen=chosen,
            standard_error=standard_error(chosen),
        )

    def _read(self, store: SampleStore) -> None:
        occurrences = OccurrenceCounter()
        largest: list[int] = []  # a heap of negated keys
        for number, batch in enumerate(self._source):
            digests = self._adapter.digests(batch)
            if digests is None:
                raise OptionError(
                    "max_samples= needs batches that can be split into samples, which those of "
                    "call= cannot: choose the samples before"
                )
            for index, digest in enumerate(digests):
                name = sample_key(self._seed, digest, occurrences.count(digest))
                key = int.from_bytes(name, "big")
                if len(largest) == self._max_samples:
                    if key > -largest[0]:
                        continue
                    store.drop(self._kept.pop(-heapq.heappop(largest)).place)
                heapq.heappush(largest, -key)
                form, data = self._adapter.pack(batch, index)
                self._kept[key] = _Kept(
                    position=self._seen + index, form=form, place=store.keep(data)
                )
            self._seen += len(digests)
            self._progress(Progress(phase="sampling", done=number + 1, total=None))
