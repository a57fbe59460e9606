"""Moments of a tensor on its own device and in its own layout, without a copy where possible.

A contiguous CPU tensor is reduced row by row, a channels_last tensor in the order of its memory. On
an accelerator only the (N, C) results leave the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bn_ops.core.moments import Moments, from_samples, per_sample
from bn_ops.core.reduction import reduce_interleaved
from bn_ops.core.statistics import Float64Array

__all__ = ["measure_tensor", "positions_of", "reduce_tensor"]

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
        return from_samples(*reduce_tensor(x), positions_of(x))


def reduce_tensor(x: torch.Tensor) -> tuple[Float64Array, Float64Array]:
    """Reduce each (sample, channel) separately; see `bn_ops.core.moments.per_sample`.

    Args:
        x: as `measure_tensor`.

    Returns:
        (mean, sq_dev): two (N, C) float64 arrays on the CPU; sq_dev is Σ(x - mean)².
    """
    x = x.detach()
    if x.device.type != "cpu":
        return _on_device(x)
    if x.dtype == torch.bfloat16:
        # numpy has no bfloat16; widening is exact.
        x = x.float()
    # Torch's own threads: they wait for the next operator without yielding their cores, so others
    # would compete with them.
    workers = torch.get_num_threads()
    last = x.movedim(1, -1)
    if last.is_contiguous() and not x.is_contiguous():
        rows = last.reshape(x.shape[0], -1, x.shape[1])
        return reduce_interleaved(_as_array(rows), workers=workers, openmp=True)
    return per_sample(_as_array(x.contiguous()), workers=workers, openmp=True)


def _as_array(x: torch.Tensor) -> NDArray[np.floating]:
    """Return an array over the memory of a tensor.

    `Tensor.numpy` would mark the storage permanently as shared with an array, and the layer could
    not overwrite its input (`bn_ops.engines.torch.in_place`).
    """
    found: NDArray[Any] = np.from_dlpack(x)
    return found


def positions_of(x: torch.Tensor) -> int:
    """Return the number of values per sample and channel."""
    return int(x.shape[2:].numel())


def _on_device(x: torch.Tensor) -> tuple[Float64Array, Float64Array]:
    """Reduce in two passes on the tensor's device, in chunks of bounded size."""
    row_bytes = 4 * max(1, x[0].numel())
    step = max(1, _DEVICE_CHUNK_BYTES // row_bytes)
    parts = [_rows_on_device(part) for part in torch.split(x, step)]
    mean = torch.cat([part[0] for part in parts]).double().numpy()
    sq_dev = torch.cat([part[1] for part in parts]).double().numpy()
    return mean, sq_dev


def _rows_on_device(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each row's mean and Σ(x - mean)², both (N, C), on the CPU in float64 or float32."""
    # Apple's devices have no float64.
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    axes = tuple(range(2, x.ndim))
    positions = positions_of(x)
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
