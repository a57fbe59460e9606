"""Moments of tensors in onnxruntime's blocked layout NCHWc, (N, C/b, positions, b).

onnxruntime keeps activations between convolutions in blocks of b = 8 or 16 interleaved channels. A
row of this layout interleaves b channels, so its sums run over every b-th value; they are computed
over long rows of lanes, 16 positions wide, which processors add at the speed of the cache.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.statistics import Float64Array

__all__ = ["reduce_nchwc"]

# Maximum number of positions in one lane: sums then run over rows of up to 256 values.
_MAX_WIDTH = 16

# Length of the longest float32 sum, in positions; each lane adds about a sixteenth of it. A lane's
# rounding error is then below 2e-7 of its sum, and that of the total a few 1e-8.
_PIECE = 2048

# Values per block: 4 MiB of float32. A quarter of it was a fifth slower in measurements (Python's
# cost per block); a smaller block gains little, since a block is read twice in succession.
_BLOCK = 1 << 20

# Values copied at a time when a row is reduced again: 1 MiB, and the same for the difference.
_COPIED = 1 << 18

# A row whose squared mean exceeds this many times its variance is reduced again around its mean.
# Sums are accurate to a few 1e-8 here, so a variance is accurate to a few 1e-7.
_CANCELLATION_RATIO = 8.0


def reduce_nchwc(
    x: NDArray[np.float32], *, block: int, channels: int
) -> tuple[Float64Array, Float64Array]:
    """Reduce each (sample, channel) row separately.

    Args:
        x: shape (N, C', *spatial), blocked in memory, C-contiguous; C' is C padded to a multiple of
            the block size.
        block: b.
        channels: C; padding channels are dropped.

    Returns:
        (mean, sq_dev): two (N, C) float64 arrays; sq_dev is Σ(x - mean)² of the sample's channel.
    """
    samples, padded = x.shape[:2]
    rows = x.reshape(samples * padded // block, -1, block)
    mean = np.empty((rows.shape[0], block))
    sq_dev = np.empty((rows.shape[0], block))
    step = max(1, _BLOCK // (rows.shape[1] * block))
    # Threads do not inherit the caller's floating-point error state.
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, rows.shape[0], step):
            part = slice(start, start + step)
            mean[part], sq_dev[part] = _reduce(rows[part])
    shape = (samples, padded)
    return mean.reshape(shape)[:, :channels], sq_dev.reshape(shape)[:, :channels]


def _reduce(rows: NDArray[np.float32]) -> tuple[Float64Array, Float64Array]:
    mean, sq_dev = _one_pass(rows)
    # Not "<": NaN must take the careful path too.
    length = rows.shape[1]
    careful = np.flatnonzero(~(length * mean * mean <= _CANCELLATION_RATIO * sq_dev).all(axis=1))
    step = max(1, _COPIED // rows[0].size)
    for start in range(0, careful.size, step):
        again = careful[start : start + step]
        # Around the row's own mean nothing cancels. The difference of two close float32 numbers is
        # exact, and of others it has a relative rounding error, so float32 suffices.
        center = mean[again].astype(np.float32)[:, np.newaxis]
        mean[again], sq_dev[again] = _one_pass(rows[again] - center)
        mean[again] += center[:, 0]
    return mean, sq_dev


def _one_pass(rows: NDArray[np.float32]) -> tuple[Float64Array, Float64Array]:
    count, length, block = rows.shape
    total, total_sq = np.zeros((count, block)), np.zeros((count, block))
    for start in range(0, length, _PIECE):
        _add_piece(rows[:, start : start + _PIECE], total, total_sq)
    mean = total / length
    return mean, np.maximum(total_sq - length * mean * mean, 0)


def _add_piece(rows: NDArray[np.float32], total: Float64Array, total_sq: Float64Array) -> None:
    """Add Σx and Σx² over positions, (R, P, b), to two (R, b)."""
    count, length, block = rows.shape
    width = _divisor(length)
    whole = length - length % width
    lanes = rows[:, :whole].reshape(count, -1, width * block)
    total += _joined(lanes.sum(axis=1), width)
    total_sq += _joined(np.einsum("rpl,rpl->rl", lanes, lanes), width)
    if whole < length:
        tail = rows[:, whole:]
        total += tail.sum(axis=1)
        total_sq += np.einsum("rpl,rpl->rl", tail, tail)


def _joined(lanes: NDArray[np.float32], width: int) -> Float64Array:
    """Add the lanes of each channel in float64, (R, width · b) → (R, b)."""
    wide = lanes.astype(np.float64).reshape(lanes.shape[0], width, -1)
    # A product with ones: numpy's sum over a middle axis of 16 costs more than the lanes did.
    return np.asarray(np.matmul(_ONES[:, :width], wide)[:, 0])


_ONES = np.ones((1, _MAX_WIDTH))


@cache
def _divisor(length: int) -> int:
    """Return the lane width: the largest divisor of the length in range, else the maximum."""
    if length <= _MAX_WIDTH:
        return 1
    near = (width for width in range(_MAX_WIDTH, _MAX_WIDTH // 4, -1) if length % width == 0)
    return next(near, _MAX_WIDTH)
