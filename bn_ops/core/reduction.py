"""Mean and sum of squared deviations of rows of values, in one read of memory.

A row is one sample's values in one channel. Each row is reduced on its own, in float64, around its
first value, so the result depends neither on the rest of the batch nor on the number of threads.
The compiled form (`_reduction.c`) adds in an order that the layout alone fixes, which gives the
same bits on every processor; where it was not compiled, numpy computes the same formula, several
times slower and with other last bits.

Source: shifted data, Chan, Golub, LeVeque, "Algorithms for Computing the Sample Variance: Analysis
and Recommendations", The American Statistician 37 (1983), section 3.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from bn_ops.core.statistics import Float64Array

__all__ = ["is_compiled", "reduce_interleaved", "reduce_nchwc", "reduce_rows", "thread_count"]

_logger = logging.getLogger(__name__)

# Values per task: 2 MiB of float32. It bounds the float64 copies of the numpy form, and a thread
# that takes one task is busy for about 100 µs.
_TASK_VALUES = 1 << 19

# Starting threads costs more than it saves below this size.
_MIN_BYTES_FOR_THREADS = 4 << 20

# The same for the threads of an OpenMP runtime that torch has started already.
_OPENMP_TASK_VALUES = 1 << 15
_MIN_BYTES_FOR_OPENMP = 256 << 10

# Numbers of the element types in `_reduction.c`.
_TYPES = {
    np.dtype(kind): number
    for number, kind in enumerate((np.float32, np.float64, np.float16, ml_dtypes.bfloat16))
}


@cache
def _compiled() -> ModuleType | None:
    """Return the compiled module, or None after logging once that it is missing."""
    try:
        from bn_ops.core import _reduction  # noqa: PLC0415 - not there without a C compiler
    except ImportError:
        _logger.warning(
            "bnrecal was installed without its compiled reduction and measures with numpy, which "
            "is several times slower: install a C compiler and reinstall bnrecal"
        )
        return None
    return _reduction


@cache
def _has_openmp() -> bool:
    """Return whether torch's threads can run the reduction; torch is loaded when this is called."""
    compiled = _compiled()
    return compiled is not None and bool(compiled.has_openmp())


def is_compiled() -> bool:
    """Return whether the compiled reduction is in use."""
    return _compiled() is not None


def thread_count(requested: int | None) -> int:
    """Return the requested number of threads; by default one per core of this process."""
    return requested or len(os.sched_getaffinity(0))


def reduce_rows(
    rows: NDArray[np.generic], *, workers: int | None = None, openmp: bool = False
) -> tuple[Float64Array, Float64Array]:
    """Reduce each row to its mean and sum of squared deviations.

    Args:
        rows: (R, P), any floating dtype and strides, P ≥ 1. Copied if it is not C-contiguous.
        workers: threads; None means one per core where the rows are large enough. The result does
            not depend on it.
        openmp: use the threads of the OpenMP runtime that torch has loaded, if there is one,
            instead of new ones. A forked child of a process that has used them must not.

    Returns:
        (mean, sq_dev): two (R,) float64 arrays; sq_dev is Σ(x - mean)². A row with NaN or Inf gives
        a non-finite value.
    """
    mean, sq_dev = reduce_interleaved(rows[:, :, np.newaxis], workers=workers, openmp=openmp)
    return mean[:, 0], sq_dev[:, 0]


def reduce_interleaved(
    x: NDArray[np.generic], *, workers: int | None = None, openmp: bool = False
) -> tuple[Float64Array, Float64Array]:
    """Reduce the middle axis: rows whose values are interleaved channel by channel.

    Args:
        x: (N, P, C), any floating dtype and strides, P ≥ 1: `channels_last` activations, or blocks
            of onnxruntime's NCHWc layout. Copied if it is not C-contiguous.
        workers: as `reduce_rows`.
        openmp: as `reduce_rows`.

    Returns:
        (mean, sq_dev): two (N, C) float64 arrays, as `reduce_rows`.
    """
    outer, positions, channels = x.shape
    mean = np.empty((outer, channels))
    sq_dev = np.empty((outer, channels))
    if not mean.size:
        return mean, sq_dev
    compiled = _compiled() if x.dtype in _TYPES else None
    shared = openmp and compiled is not None and _has_openmp()
    task_values = _OPENMP_TASK_VALUES if shared else _TASK_VALUES
    step = max(1, task_values // (positions * channels))
    large = x.nbytes >= (_MIN_BYTES_FOR_OPENMP if shared else _MIN_BYTES_FOR_THREADS)
    starts = range(0, outer, step)
    workers = min(thread_count(workers), len(starts)) if large else 1
    if compiled is not None and (shared or workers == 1):
        _reduce(x, mean, sq_dev, step=step, threads=workers)
        return mean, sq_dev
    reduce = _reduce_with_numpy if compiled is None else _reduce

    def task(start: int) -> None:
        part = slice(start, start + step)
        reduce(x[part], mean[part], sq_dev[part])

    if workers > 1:
        with ThreadPoolExecutor(workers, "moments") as pool:
            list(pool.map(task, starts))
    else:
        for start in starts:
            task(start)
    return mean, sq_dev


def reduce_nchwc(
    x: NDArray[np.generic], *, block: int, channels: int
) -> tuple[Float64Array, Float64Array]:
    """Reduce each (sample, channel) of a tensor in onnxruntime's NCHWc layout.

    Args:
        x: logically (N, C', *spatial), in memory (N, C'/block, positions, block), C-contiguous; C'
            is C padded to a multiple of the block.
        block: channels per block, 8 or 16.
        channels: C; results of the padding are dropped.

    Returns:
        (mean, sq_dev): two (N, C) float64 arrays, as `reduce_rows`. Runs in the calling thread.
    """
    samples, padded = x.shape[:2]
    rows = x.reshape(samples * padded // block, -1, block)
    mean, sq_dev = (a.reshape(samples, padded) for a in reduce_interleaved(rows, workers=1))
    return mean[:, :channels], sq_dev[:, :channels]


def _reduce(
    x: NDArray[np.generic],
    mean: Float64Array,
    sq_dev: Float64Array,
    *,
    step: int = 1,
    threads: int = 1,
) -> None:
    """Write the compiled reduction of (N, P, C) into two contiguous (N, C) arrays."""
    compiled = _compiled()
    assert compiled is not None
    # Not every dtype offers a buffer (bfloat16 does not); its bytes do.
    data = np.ascontiguousarray(x).view(np.uint8)
    compiled.reduce(data, mean, sq_dev, _TYPES[x.dtype], *x.shape, step, threads)


def _reduce_with_numpy(x: NDArray[np.generic], mean: Float64Array, sq_dev: Float64Array) -> None:
    """Write the same reduction by numpy."""
    positions = x.shape[1]
    # Threads do not inherit the caller's floating-point error state.
    with np.errstate(over="ignore", invalid="ignore"):
        # Rows contiguous in memory: numpy then sums each in an order that its length alone fixes.
        rows = np.ascontiguousarray(x.swapaxes(1, 2), dtype=np.float64)
        first = rows[:, :, 0].copy()
        rows = rows - first[:, :, np.newaxis]
        total = rows.sum(axis=2)
        mean[:] = first + total / positions
        left = np.square(rows, out=rows).sum(axis=2) - total * total / positions
        np.maximum(left, 0, out=sq_dev)
