"""Moments of tensors in onnxruntime's blocked layout, (N, C/b, positions, b).

onnxruntime keeps activations between convolutions in blocks of b = 8 or 16 channels whose values
lie next to each other. A row of this layout holds b channels in turn, so its sums are sums over
every b-th value; they are taken over long rows of lanes, 16 positions wide, that processors add at
the speed of the cache.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.statistics import Float64Array

__all__ = ["reduce_nchwc"]

# Positions side by side in one lane, at most: sums then run over rows of up to 256 values.
_MAX_WIDTH = 16

# Longest float32 sum, in positions; each lane adds about a sixteenth of it. A lane's rounding error
# is then below 2e-7 of its sum, and that of the lanes together a few 1e-8.
_PIECE = 2048

# Values per block: 4 MiB of float32. A quarter of it measured a fifth slower (Python's cost per
# block); there is little to gain from a smaller one, since a block is read twice in a row.
_BLOCK = 1 << 20

# Values copied at a time where a row is reduced again: 1 MiB, and as much for the difference.
_COPIED = 1 << 18

# A row whose squared mean exceeds this many times its variance is reduced again around its mean.
# Sums are right to a few 1e-8 here, so a variance is then right to a few 1e-7.
_CANCELLATION_RATIO = 8.0


def reduce_nchwc(
    x: NDArray[np.float32], *, block: int, channels: int
) -> tuple[Float64Array, Float64Array]:
    """Reduce each (sample, channel) on its own.

    Args:
        x: (N, C', *spatial) by name, blocked in memory, C-contiguous; C' is C padded to a multiple
            of the block.
        block: b.
        channels: C; the padding behind them is left out.

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
    # Not "<": a NaN must land here too, so that the careful way decides about it.
    length = rows.shape[1]
    careful = np.flatnonzero(~(length * mean * mean <= _CANCELLATION_RATIO * sq_dev).all(axis=1))
    step = max(1, _COPIED // rows[0].size)
    for start in range(0, careful.size, step):
        again = careful[start : start + step]
        # Around its own mean nothing cancels. The difference of two near float32 numbers is exact,
        # and of others it is rounded relative to itself, so float32 is wide enough here.
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
    """Width of a lane: the largest that divides the length, or any where none is near."""
    if length <= _MAX_WIDTH:
        return 1
    near = (width for width in range(_MAX_WIDTH, _MAX_WIDTH // 4, -1) if length % width == 0)
    return next(near, _MAX_WIDTH)
