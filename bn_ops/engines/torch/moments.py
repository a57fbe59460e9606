"""Moments of a tensor on its own device and in its own layout, without a copy where possible.

A contiguous CPU tensor is passed to `bn_ops.core.moments` without a copy. A channels_last tensor is
reduced in memory order, in blocks of positions that are short enough for float32. On an accelerator
only the (N, C) results leave the device.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from bn_ops.core.moments import Moments, from_samples, measure
from bn_ops.core.statistics import Float64Array

__all__ = ["measure_tensor"]

# As in bn_ops.core.row_reduction: beyond this squared mean over variance, one pass loses bits.
_CANCELLATION_RATIO = 4.0

# Sums of up to this many float32 values in sequence stay within about 1e-6 of the exact one.
_BLOCK = 64

# Rows of at most this length are widened as a whole, which costs less than checking them.
_SHORT_ROW = 32

# Bytes reduced at a time: a core's second-level cache, so that the second read hits the cache.
_CACHE_BYTES = 2 << 20

# For fewer bytes, starting threads costs more than it saves.
_MIN_THREADED_BYTES = 4 << 20

# Temporary memory for deviations on an accelerator, per step.
_DEVICE_CHUNK_BYTES = 64 * 2**20


def measure_tensor(x: torch.Tensor) -> Moments:
    """Measure one batch of a layer's input; see `bn_ops.core.moments.measure`.

    Args:
        x: (N, C, *spatial), any floating dtype, device and strides, N ≥ 1. Modified: no.

    Returns:
        Moments of the N samples. Non-finite values propagate, without numpy's warnings.
    """
    with np.errstate(all="ignore"):
        return _measured(x.detach())


def _measured(x: torch.Tensor) -> Moments:
    if x.device.type != "cpu":
        return _on_device(x)
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    if not x.is_contiguous() and x.dtype == torch.float32 and _positions(x) > _SHORT_ROW:
        last = x.movedim(1, -1)
        if last.is_contiguous():
            return _channels_last(last.reshape(x.shape[0], -1, x.shape[1]).numpy())
    return measure(x.contiguous().numpy())


def _positions(x: torch.Tensor) -> int:
    return int(x.shape[2:].numel())


def _channels_last(x: NDArray[np.float32]) -> Moments:
    """Measure an (N, P, C) array in memory order, one cache size at a time."""
    samples, positions, channels = x.shape
    mean, sq_dev = np.empty((samples, channels)), np.empty((samples, channels))

    def reduce(part: slice) -> None:
        mean[part], sq_dev[part] = _reduced(x[part])

    step = max(1, _CACHE_BYTES // x[0].nbytes)
    parts = [slice(start, start + step) for start in range(0, samples, step)]
    workers = min(torch.get_num_threads(), len(parts))
    if workers > 1 and x.nbytes >= _MIN_THREADED_BYTES:
        with ThreadPoolExecutor(workers, "moments") as pool:
            list(pool.map(reduce, parts))
    else:
        for part in parts:
            reduce(part)
    return from_samples(mean, sq_dev, positions)


def _reduced(x: NDArray[np.float32]) -> tuple[Float64Array, Float64Array]:
    """Reduce each sample and channel of (N, P, C) to mean and Σ(x - mean)², both (N, C)."""
    positions = x.shape[1]
    # Worker threads do not inherit the caller's floating-point error state.
    with np.errstate(all="ignore"):
        mean = _sum_over_positions(x, "nkbc->nkc") / positions
        sum_sq = _sum_over_positions(x, "nkbc,nkbc->nkc")
        sq_dev = sum_sq - positions * mean * mean
        # Not "<": NaN must take the careful path too.
        careful = ~(positions * mean * mean <= _CANCELLATION_RATIO * sq_dev)
        for n in np.flatnonzero(careful.any(axis=1)):
            columns = np.flatnonzero(careful[n])
            rows = np.ascontiguousarray(x[n][:, columns].T, dtype=np.float64)
            mean[n, columns] = rows.mean(axis=1)
            deviation = rows - mean[n, columns, np.newaxis]
            sq_dev[n, columns] = np.vecdot(deviation, deviation)
    return mean, sq_dev


def _sum_over_positions(x: NDArray[np.float32], subscripts: str) -> Float64Array:
    """Sum values or squares, (N, P, C) to (N, C), in short float32 sums added in float64."""
    blocks, rest = divmod(x.shape[1], _BLOCK)
    cut = blocks * _BLOCK
    operands = 1 + subscripts.count(",")
    head = x[:, :cut].reshape(x.shape[0], blocks, _BLOCK, x.shape[2])
    total = np.einsum(subscripts, *([head] * operands)).sum(axis=1, dtype=np.float64)
    if rest:
        tail = x[:, np.newaxis, cut:]
        total += np.einsum(subscripts, *([tail] * operands)).sum(axis=1, dtype=np.float64)
    return np.asarray(total, dtype=np.float64)


def _on_device(x: torch.Tensor) -> Moments:
    """Measure in two passes on the tensor's device, in chunks of bounded size."""
    row_bytes = 4 * max(1, x[0].numel())
    step = max(1, _DEVICE_CHUNK_BYTES // row_bytes)
    parts = [_rows_on_device(part) for part in torch.split(x, step)]
    mean = torch.cat([part[0] for part in parts]).double().numpy()
    sq_dev = torch.cat([part[1] for part in parts]).double().numpy()
    return from_samples(mean, sq_dev, _positions(x))


def _rows_on_device(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's mean and Σ(x - mean)², both (N, C), on the CPU in float64 or float32."""
    # Apple's devices have no float64.
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    axes = tuple(range(2, x.ndim))
    positions = _positions(x)
    values = x if x.dtype == torch.float64 else x.float()
    if not axes:
        return x.cpu().double(), torch.zeros(x.shape, dtype=torch.float64)
    first = values.mean(axes, keepdim=True)
    deviation = values - first
    # The first mean is rounded to the working dtype; the deviations contain the rounding error.
    missed = deviation.sum(axes, dtype=wide) / positions
    sq_dev = deviation.square_().sum(axes, dtype=wide) - positions * missed.square()
    mean = first.flatten(1).to(wide) + missed
    return mean.cpu().double(), sq_dev.cpu().double()
