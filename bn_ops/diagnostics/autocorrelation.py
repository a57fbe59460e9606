"""Whether a stream looks correlated: standard errors over blocks against those over samples.

Neighbours in a video, or in a stream sorted by class, say much the same thing, so n of them know
less than n independent samples would. The sample-wise standard errors of
`bn_ops.diagnostics.standard_errors` cannot see that: they do not know the order. Here the order is
kept. Each sample is summed up in a few numbers; the stream is cut into contiguous blocks of about
√n samples; and the variance of the block means is compared with what independent samples would
give, var / block size. The ratio is the design effect: n samples are worth n / design effect.

What is watched are the model's inputs, not the layers' activations: they pass once, in order, in
every engine, and a result must not depend on how the stream was cut into batches.

Source: Kish 1965, "Survey Sampling", section 8.2 (design effect); Carlstein 1986, "The Use of
Subseries Values for Estimating the Variance of a General Statistic from a Stationary Sequence"
(blocks that do not overlap, of a length that grows with n).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import Batch
from bn_ops.core.statistics import Float64Array

__all__ = ["Correlation", "SampleSeries", "feature_step", "sample_features", "watched"]

# Numbers per input and sample: means over this many contiguous pieces, and the mean square.
_PIECES = 16

# Values of a sample that are looked at, evenly spaced: enough for means of pieces, and cheap next
# to the network however large the samples are (measured: 0.1 ms for 3x224x224).
_MOST_VALUES = 4096

# Fewer blocks than this know their own variance too badly to accuse anybody.
_FEWEST_BLOCKS = 8

# Fine blocks kept at most: 4,096 rows of a few numbers. Blocks of √n samples can be put together
# from them exactly up to 4 million samples, and of more than √n beyond.
_MOST_BLOCKS = 4096

# A feature that spreads less than this, relative to its own size, is constant up to rounding.
_RESOLUTION = 1e-6

# Warn when samples are worth less than half of what they count, and when chance does not explain
# it: a variance over B blocks is known to √(2/(B - 1)); four of those.
_WORTH_SAYING = 2.0
_CHANCE = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """What the order of a stream showed.

    Attributes:
        samples: n.
        blocks, block_samples: how many contiguous blocks were compared, and their length.
        design_effect: variance of block means over that of independent samples; about 1 without
            correlation, at most block_samples.
    """

    samples: int
    blocks: int
    block_samples: int
    design_effect: float

    @property
    def error_ratio(self) -> float:
        """Block standard error over sample standard error."""
        return math.sqrt(self.design_effect)

    @property
    def effective_samples(self) -> int:
        """How many independent samples the stream is worth; never more than n."""
        return math.ceil(self.samples / max(self.design_effect, 1.0))

    @property
    def suspicious(self) -> bool:
        """Whether it is large enough to say so, and more than chance."""
        chance = 1 + _CHANCE * math.sqrt(2 / (self.blocks - 1))
        return self.design_effect > max(_WORTH_SAYING, chance)


def feature_step(values: int) -> int:
    """Return the step between the values of a sample that are looked at.

    What has been thinned out by this step is looked at whole: a tensor can be thinned where it
    lies, before it is copied.
    """
    # An odd step does not stay in one column of an image.
    return max(1, values // _MOST_VALUES) | 1


def sample_features(batch: Mapping[str, NDArray[np.generic]]) -> Float64Array:
    """Sum each sample of a batch up in a few numbers.

    Args:
        batch: named arrays, first axis = samples. Inputs that hold no real numbers, or
            no row per sample, are skipped.

    Returns:
        (N, F) float64: per input, the mean of up to 16 contiguous pieces of the flattened sample
        and the mean of its squares, over at most about 4,096 evenly spaced values.
    """
    samples = next(iter(batch.values())).shape[0]
    columns = [np.zeros((samples, 0))]
    for array in batch.values():
        if array.shape[:1] != (samples,) or array.size == 0 or array.dtype.kind in "OUSbc":
            continue
        rows = array.reshape(samples, -1)
        wide = rows[:, :: feature_step(rows.shape[1])].astype(np.float64)
        pieces = np.array_split(wide, min(_PIECES, wide.shape[1]), axis=1)
        columns += [piece.mean(axis=1, keepdims=True) for piece in pieces]
        columns.append(np.vecdot(wide, wide)[:, np.newaxis] / wide.shape[1])
    return np.concatenate(columns, axis=1)


class SampleSeries:
    """Features of a stream's samples, in order, in bounded memory.

    The result does not depend on how the stream is cut into batches: fine blocks are aligned to the
    stream's start, and two neighbours are joined when there are too many.
    """

    def __init__(self) -> None:
        self._samples = 0
        self._length = 1  # samples per fine block
        self._full: list[Float64Array] = []  # sums over full fine blocks
        self._open: Float64Array | None = None
        self._filled = 0
        self._origin: Float64Array | None = None  # the first sample: keeps the squares small
        self._sum_sq: Float64Array | None = None

    def add(self, features: Float64Array) -> None:
        """Take the next samples, (N, F) float64, in the order of the stream."""
        for row in features:
            if self._origin is None:
                self._origin = row.copy()
                self._sum_sq = np.zeros_like(row)
            moved = row - self._origin
            assert self._sum_sq is not None
            self._sum_sq += moved * moved
            self._samples += 1
            self._append(moved)

    def _append(self, row: Float64Array) -> None:
        self._open = row if self._open is None else self._open + row
        self._filled += 1
        if self._filled < self._length:
            return
        self._full.append(self._open)
        self._open, self._filled = None, 0
        if len(self._full) == _MOST_BLOCKS:
            self._full = [a + b for a, b in zip(self._full[::2], self._full[1::2], strict=True)]
            self._length *= 2

    def correlation(self) -> Correlation | None:
        """Compare blocks with samples, or None with too few samples or nothing that varies."""
        join = max(1, round(math.sqrt(self._samples) / self._length))
        blocks = len(self._full) // join
        if blocks < _FEWEST_BLOCKS or self._sum_sq is None or self._origin is None:
            return None
        size = join * self._length
        sums = np.stack(self._full[: blocks * join]).reshape(blocks, join, -1).sum(axis=1)
        total = np.sum(self._full, axis=0) + (0 if self._open is None else self._open)
        mean = total / self._samples
        spread = (self._sum_sq - self._samples * mean**2) / (self._samples - 1)
        size_of = np.abs(self._origin) + np.abs(mean)
        live = spread > (_RESOLUTION * size_of) ** 2
        if not live.any():
            return None
        between = (sums[:, live] / size).var(axis=0, ddof=1)
        return Correlation(
            samples=self._samples,
            blocks=blocks,
            block_samples=size,
            design_effect=float(np.mean(size * between / spread[live])),
        )


def watched(batches: Iterable[Batch], series: SampleSeries) -> Iterator[Batch]:
    """Pass a stream through unchanged while its samples' features are taken."""
    for batch in batches:
        series.add(sample_features(batch))
        yield batch
