"""What a run looks at while it reads the stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bn_ops.core.engine import BatchAdapter
from bn_ops.core.options import RecalibrateOptions
from bn_ops.diagnostics.autocorrelation import SampleSeries, sample_features
from bn_ops.diagnostics.probe import Probe
from bn_ops.errors import BnOpsError, StreamEmptyError
from bn_ops.input_check.engine import CheckedEngine
from bn_ops.input_check.judging import require_plausible
from bn_ops.input_check.result import InputCheck

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
        source: the stream, read once.
        adapter: how to handle one batch.
        probe: where the samples for comparisons are kept; None without comparisons.
        check: called once, with the first samples, before the last of them is passed on.
        batches, samples: how many have been read.
        kept: copies of the first samples.
        series: features of every sample, in order.
        input_check: what `check` returned.
    """

    source: Iterator[BatchT]
    adapter: BatchAdapter[BatchT]
    check: Callable[[Sequence[BatchT]], InputCheck | None]
    probe: Probe[BatchT] | None
    batches: int = 0
    samples: int = 0
    kept: list[BatchT] = field(default_factory=list)
    series: SampleSeries = field(default_factory=SampleSeries)
    input_check: InputCheck | None = None

    def __iter__(self) -> Iterator[BatchT]:
        for batch in self.source:
            if features := self.adapter.features(batch):
                self.series.add(sample_features(features))
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
