"""Autocorrelation of a stream: standard errors over blocks compared with those over samples.

Neighboring frames of a video, or of a stream sorted by class, resemble each other, so n of them
carry less information than n independent samples. The sample-wise standard errors of
`bn_ops.diagnostics.build_report` ignore the order and cannot show that; this module uses it.
Each sample is reduced to a few features; the stream is cut into contiguous blocks of about √n
samples; and the variance of the block means is compared with that of independent samples,
var / block size. The ratio is the design effect: n samples are worth n / design effect.

The features are taken from the model's inputs, not from the layers' activations: inputs pass once
and in order in every engine, and the result must not depend on how the stream is batched.

Source: Kish 1965, "Survey Sampling", section 8.2 (design effect); Carlstein 1986, "The Use of
Subseries Values for Estimating the Variance of a General Statistic from a Stationary Sequence"
(non-overlapping blocks whose length grows with n).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import Batch
from bn_ops.core.statistics import Float64Array
from bn_ops.diagnostics.report import Correlation

__all__ = ["SampleSeries", "feature_step", "sample_features", "watched"]

# Features per input and sample: means over this many contiguous pieces, and the mean square.
_PIECES = 16

# Values read per sample, evenly spaced: enough for the means of pieces, and cheap next to the
# network however large the samples are (measured: 0.1 ms for 3x224x224).
_MAX_VALUES = 4096

# With fewer blocks than this the variance over blocks is too uncertain.
_MIN_BLOCKS = 8

# Fine blocks kept at most: 4,096 rows of a few numbers. Blocks of √n samples can be assembled from
# them exactly up to 4 million samples, and of more than √n beyond.
_MAX_BLOCKS = 4096

# A feature whose spread is below this, relative to its magnitude, is constant up to rounding.
_RESOLUTION = 1e-6

# Warn when samples are worth less than half of their number and chance does not explain it: the
# relative standard error of a variance over B blocks is √(2/(B - 1)); four of those.
_MIN_DESIGN_EFFECT = 2.0
_CHANCE_SIGMAS = 4.0


def feature_step(values: int) -> int:
    """Return the step between the values of a sample that are read.

    A tensor that was strided by this step is read completely, so that it can be strided on its
    device before it is copied.
    """
    # An odd step does not stay in one column of an image.
    return max(1, values // _MAX_VALUES) | 1


def sample_features(batch: Mapping[str, NDArray[np.generic]]) -> Float64Array:
    """Reduce each sample of a batch to a few numbers.

    Args:
        batch: named arrays, first axis = samples. Inputs that are not real numbers, or have no row
            per sample, are skipped.

    Returns:
        (N, F) float64: per input, the means of up to 16 contiguous pieces of the flattened sample
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
    start of the stream, and pairs of neighbors are merged when there are too many.

    Args:
        max_blocks: fine blocks kept at most; even.
    """

    def __init__(self, *, max_blocks: int = _MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._samples = 0
        self._length = 1  # samples per fine block
        self._full: list[Float64Array] = []  # sums over full fine blocks
        self._open: Float64Array | None = None
        self._filled = 0
        self._origin: Float64Array | None = None  # the first sample: keeps the squares small
        self._sum_sq: Float64Array | None = None

    def add(self, features: Float64Array) -> None:
        """Add the next samples, (N, F) float64, in stream order."""
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
        if len(self._full) == self._max_blocks:
            self._full = [a + b for a, b in zip(self._full[::2], self._full[1::2], strict=True)]
            self._length *= 2

    def correlation(self) -> Correlation | None:
        """Compare blocks with samples; None with too few samples or only constant features."""
        per_block = max(1, round(math.sqrt(self._samples) / self._length))
        blocks = len(self._full) // per_block
        if blocks < _MIN_BLOCKS or self._sum_sq is None or self._origin is None:
            return None
        size = per_block * self._length
        sums = np.stack(self._full[: blocks * per_block]).reshape(blocks, per_block, -1).sum(axis=1)
        total = np.sum(self._full, axis=0) + (0 if self._open is None else self._open)
        mean = total / self._samples
        spread = (self._sum_sq - self._samples * mean**2) / (self._samples - 1)
        magnitude = np.abs(self._origin) + np.abs(mean)
        live = spread > (_RESOLUTION * magnitude) ** 2
        if not live.any():
            return None
        between = (sums[:, live] / size).var(axis=0, ddof=1)
        effect = float(np.mean(size * between / spread[live]))
        by_chance = 1 + _CHANCE_SIGMAS * math.sqrt(2 / (blocks - 1))
        return Correlation(
            blocks=blocks,
            block_samples=size,
            design_effect=effect,
            error_ratio=math.sqrt(effect),
            effective_samples=math.ceil(self._samples / max(effect, 1.0)),
            suspicious=effect > max(_MIN_DESIGN_EFFECT, by_chance),
        )


def watched(batches: Iterable[Batch], series: SampleSeries) -> Iterator[Batch]:
    """Yield a stream unchanged while adding its samples' features to a series."""
    for batch in batches:
        series.add(sample_features(batch))
        yield batch
