"""What a run looks at while it reads the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from bn_ops.core.engine import BatchAdapter
from bn_ops.core.options import RecalibrateOptions
from bn_ops.core.statistics import Float64Array
from bn_ops.diagnostics.autocorrelation import SampleSeries, sample_features
from bn_ops.diagnostics.probe import Probe
from bn_ops.diagnostics.report import Subsample
from bn_ops.errors import BnOpsError, StreamEmptyError
from bn_ops.input_check.engine import CheckedEngine
from bn_ops.input_check.judging import require_plausible
from bn_ops.input_check.result import InputCheck
from bn_ops.pipeline.subsample import ChosenSamples

__all__ = ["ObservedStream", "check_first_samples"]

# First samples of the stream that are kept, for the input check and for verifying the folded model.
_KEPT_SAMPLES = 32

ModelT = TypeVar("ModelT")
BatchT = TypeVar("BatchT")


def check_first_samples(
    engine: CheckedEngine[ModelT, BatchT], options: RecalibrateOptions, samples: Sequence[BatchT]
) -> InputCheck | None:
    """Check the first samples; None where they cannot be run up to the first layers.

    Raises:
        InputMismatchError: the data cannot be what the model was trained on.
    """
    try:
        found = engine.check_input(samples)
    except BnOpsError:
        # The run itself reports what is wrong with the model or the batch, and where.
        return None
    if not options.allow_mismatch:
        require_plausible(found)
    return found


@dataclass(slots=True)
class ObservedStream(Generic[BatchT]):
    """Counts a stream, keeps its first samples, and rejects an empty one.

    Attributes:
        source: the stream, or the samples chosen of it; read once.
        adapter: how to handle one batch.
        probe: where the samples for comparisons are kept; None without comparisons.
        check: called once, with the first samples, before the last of them is passed on.
        batches, samples: how many have been read.
        kept: copies of the first samples.
        series: features of every sample, in order.
        on_features: receives them instead of `series`.
        input_check: what `check` returned.
        chosen: `source`, where it is a choice of samples.

    Where samples were chosen, `series` is filled at the end, in the order of the stream.
    """

    source: Iterable[BatchT]
    adapter: BatchAdapter[BatchT]
    check: Callable[[Sequence[BatchT]], InputCheck | None]
    probe: Probe[BatchT] | None
    batches: int = 0
    samples: int = 0
    kept: list[BatchT] = field(default_factory=list)
    series: SampleSeries = field(default_factory=SampleSeries)
    on_features: Callable[[Float64Array], None] | None = None
    input_check: InputCheck | None = None
    chosen: ChosenSamples[BatchT] | None = None
    _unordered: list[Float64Array] = field(default_factory=list)

    def __iter__(self) -> Iterator[BatchT]:
        for batch in self.source:
            if features := self.adapter.features(batch):
                self._add_features(sample_features(features))
            if self.probe is not None:
                self.probe.add(batch)
            room = _KEPT_SAMPLES - self.samples
            if room > 0:
                self.kept.append(self.adapter.head(batch, room))
            self.batches += 1
            self.samples += self.adapter.samples(batch)
            if room > 0 and self.samples >= _KEPT_SAMPLES:
                self.input_check = self.check(self.kept)
            yield batch
        if self.batches == 0:
            raise StreamEmptyError("the stream holds no batch, so there is nothing to measure")
        if self.samples < _KEPT_SAMPLES:
            self.input_check = self.check(self.kept)
        if self.chosen is not None and self._unordered:
            order = np.argsort(self.chosen.positions)
            self.series.add(np.concatenate(self._unordered)[order])
            self._unordered.clear()

    @property
    def subsample(self) -> Subsample | None:
        """The choice of samples; None where every sample is measured."""
        return None if self.chosen is None else self.chosen.report()

    def _add_features(self, features: Float64Array) -> None:
        if self.on_features is not None:
            self.on_features(features)
        elif self.chosen is None:
            self.series.add(features)
        else:
            self._unordered.append(features)
