"""Operators that replace those of onnx.reference, which loop over positions in Python."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx.reference.op_run import OpRun

from bn_ops.core.statistics import Float64Array

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["FAST_OPERATORS", "Window", "average", "convolve", "maximum", "transposed"]

# Convolution and pooling in float64, a few kernel positions at a time.
#
# Each position is a strided view of the padded input and one matrix product or sum over it, so that
# the work runs in BLAS and no im2col matrix of the whole kernel is built. Layout is (N, C,
# *spatial) throughout.

_Tap = tuple[tuple[int, ...], tuple[slice, ...]]

_MAX_JOINED = 64
"""Number of terms of a sum beyond which BLAS gets no faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Geometry of a sliding window.

    Attributes:
        kernel: size per spatial axis.
        strides: step per axis.
        dilations: distance of neighboring taps per axis.
        pads: padding before each axis, then after each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @classmethod
    def of(
        cls,
        kernel: Sequence[int],
        sizes: Sequence[int],
        *,
        strides: Sequence[int] | None,
        dilations: Sequence[int] | None,
        pads: Sequence[int] | None,
        auto_pad: str | None,
    ) -> Window:
        """Complete ONNX's attributes; `sizes` are those of the input, for SAME padding."""
        rank = len(kernel)
        steps = tuple(strides or (1,) * rank)
        spread = tuple(dilations or (1,) * rank)
        amounts = tuple(pads or (0,) * (2 * rank))
        if auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
            amounts = _same(sizes, kernel, steps, spread, upper=auto_pad == "SAME_UPPER")
        elif auto_pad == "VALID":
            amounts = (0,) * (2 * rank)
        return cls(kernel=tuple(kernel), strides=steps, dilations=spread, pads=amounts)

    def outputs(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the number of positions per axis."""
        rank = len(self.kernel)
        return tuple(
            (sizes[i] + self.pads[i] + self.pads[i + rank] - self._reach(i)) // self.strides[i] + 1
            for i in range(rank)
        )

    def padded(self, array: Float64Array, fill: float) -> Float64Array:
        """Pad the spatial axes."""
        rank = len(self.kernel)
        amounts = [(0, 0), (0, 0), *((self.pads[i], self.pads[i + rank]) for i in range(rank))]
        return np.pad(array, amounts, constant_values=fill)

    def taps(self, outputs: Sequence[int]) -> Iterator[_Tap]:
        """Yield each kernel position and the slices that it reads from the padded input."""
        for tap in itertools.product(*(range(size) for size in self.kernel)):
            starts = [
                position * spread for position, spread in zip(tap, self.dilations, strict=True)
            ]
            where = tuple(
                slice(start, start + (count - 1) * step + 1, step)
                for start, count, step in zip(starts, outputs, self.strides, strict=True)
            )
            yield tap, (slice(None), slice(None), *where)

    def _reach(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilations[axis] + 1


def _same(
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    *,
    upper: bool,
) -> tuple[int, ...]:
    needed = [
        max(0, (-(-size // step) - 1) * step + (width - 1) * spread + 1 - size)
        for size, width, step, spread in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less = [total // 2 for total in needed]
    more = [total - small for total, small in zip(needed, less, strict=True)]
    return (*less, *more) if upper else (*more, *less)


def convolve(x: Float64Array, weight: Float64Array, window: Window, groups: int) -> Float64Array:
    """Convolve; weight has shape (C_out, C_in/groups, *kernel)."""
    outputs = window.outputs(x.shape[2:])
    padded = window.padded(x, 0.0)
    batch, out, channels = x.shape[0], weight.shape[0], weight.shape[1]
    total = np.zeros((batch, groups, out // groups, int(np.prod(outputs))))
    split = weight.reshape(groups, out // groups, *weight.shape[1:])
    # A product over one channel is not a sum; matmul takes twice the time for it.
    product = np.multiply if channels == 1 else np.matmul
    for taps in _joined(list(window.taps(outputs)), channels, out // groups):
        seen = [padded[where].reshape(batch, groups, channels, -1) for _, where in taps]
        total += product(_side_by_side([split[_tap(tap)] for tap, _ in taps]), _side_by_side(seen))
    return total.reshape(batch, out, *outputs)


def _joined(taps: list[_Tap], channels: int, out: int) -> Iterator[list[_Tap]]:
    """Group kernel positions as long as their input does not exceed the output.

    The first layer of a network sums over three channels per position, which is too little for
    BLAS: 64 kernels of 7x7 on one image of 224x224 take a third of the time this way.
    """
    count = max(1, min(_MAX_JOINED, out) // channels) if channels > 1 else 1
    return (taps[start : start + count] for start in range(0, len(taps), count))


def _side_by_side(parts: list[Float64Array]) -> Float64Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def transposed(
    x: Float64Array,
    weight: Float64Array,
    window: Window,
    groups: int,
    output_padding: Sequence[int],
) -> Float64Array:
    """Compute a transposed convolution; weight has shape (C_in, C_out/groups, *kernel)."""
    rank, batch, per_group = len(window.kernel), x.shape[0], weight.shape[1]
    sizes = x.shape[2:]
    full = [
        (sizes[i] - 1) * window.strides[i] + (window.kernel[i] - 1) * window.dilations[i] + 1
        for i in range(rank)
    ]
    room = [size + extra for size, extra in zip(full, output_padding, strict=True)]
    total = np.zeros((batch, groups * per_group, *room))
    split = weight.reshape(groups, x.shape[1] // groups, *weight.shape[1:])
    seen = x.reshape(batch, groups, x.shape[1] // groups, -1)
    for tap, where in window.taps(sizes):
        share = np.matmul(np.swapaxes(split[_tap(tap)], 1, 2), seen)
        total[where] += share.reshape(batch, groups * per_group, *sizes)
    ends = [room[i] - window.pads[i + rank] for i in range(rank)]
    keep = tuple(slice(window.pads[i], ends[i]) for i in range(rank))
    return total[(slice(None), slice(None), *keep)]


def _tap(position: tuple[int, ...]) -> Any:
    """Return the index of one kernel position; numpy's types do not cover mixed tuples."""
    return (..., *position)


def maximum(x: Float64Array, window: Window) -> Float64Array:
    """Return the maximum over each window, ignoring padding."""
    outputs = window.outputs(x.shape[2:])
    padded = window.padded(x, -np.inf)
    views = (padded[where] for _, where in window.taps(outputs))
    result = next(views).copy()
    for view in views:
        np.maximum(result, view, out=result)
    return result


def average(x: Float64Array, window: Window, *, count_padding: bool) -> Float64Array:
    """Return the mean over each window, with or without counting padding."""
    outputs = window.outputs(x.shape[2:])
    padded = window.padded(x, 0.0)
    total = np.zeros((*x.shape[:2], *outputs))
    for _, where in window.taps(outputs):
        total += padded[where]
    if count_padding:
        return total / float(np.prod(window.kernel))
    real = window.padded(np.ones((1, 1, *x.shape[2:])), 0.0)
    count = np.zeros((1, 1, *outputs))
    for _, where in window.taps(outputs):
        count += real[where]
    return total / count


class BatchNormalization(OpRun):
    """Normalization with stored statistics; onnx's own form for opset 9 uses those of the batch."""

    def _run(
        self,
        x: Float64Array,
        scale: Float64Array,
        shift: Float64Array,
        mean: Float64Array,
        var: Float64Array,
        **given: Any,
    ) -> tuple[Float64Array]:
        if given.get("training_mode") or len(self.onnx_node.output) > 1:
            raise ValueError("a BatchNormalization normalizes with batch statistics")
        shape = (-1, *(1,) * (x.ndim - 2))
        gain = scale / np.sqrt(var + given["epsilon"])
        return (x * gain.reshape(shape) + (shift - gain * mean).reshape(shape),)


class Conv(OpRun):
    """Convolution."""

    def _run(
        self, x: Float64Array, weight: Float64Array, bias: Float64Array | None = None, **given: Any
    ) -> tuple[Float64Array]:
        window = _window(x, weight.shape[2:], given)
        return (_biased(convolve(x, weight, window, given.get("group") or 1), bias),)


class ConvTranspose(OpRun):
    """Transposed convolution with explicit padding."""

    def _run(
        self, x: Float64Array, weight: Float64Array, bias: Float64Array | None = None, **given: Any
    ) -> tuple[Float64Array]:
        if given.get("output_shape") or given.get("auto_pad") not in {None, "NOTSET"}:
            raise ValueError("ConvTranspose by output shape is not supported in float64")
        window = _window(x, weight.shape[2:], given)
        extra = tuple(given.get("output_padding") or (0,) * len(window.kernel))
        return (_biased(transposed(x, weight, window, given.get("group") or 1, extra), bias),)


class MaxPool(OpRun):
    """Maximum without indices."""

    def _run(self, x: Float64Array, **given: Any) -> tuple[Float64Array]:
        if len(self.onnx_node.output) > 1:
            raise ValueError("MaxPool with indices is not supported in float64")
        return (maximum(x, _pool_window(x, given)),)


class AveragePool(OpRun):
    """Mean over windows that do not extend beyond the edge."""

    def _run(self, x: Float64Array, **given: Any) -> tuple[Float64Array]:
        count_padding = bool(given.get("count_include_pad"))
        return (average(x, _pool_window(x, given), count_padding=count_padding),)


def _biased(result: Float64Array, bias: Float64Array | None) -> Float64Array:
    return result if bias is None else result + bias.reshape(-1, *(1,) * (result.ndim - 2))


def _window(x: Float64Array, kernel: Sequence[int], given: dict[str, Any]) -> Window:
    return Window.of(
        kernel,
        x.shape[2:],
        strides=given.get("strides"),
        dilations=given.get("dilations"),
        pads=given.get("pads"),
        auto_pad=given.get("auto_pad"),
    )


def _pool_window(x: Float64Array, given: dict[str, Any]) -> Window:
    window = _window(x, given["kernel_shape"], given)
    sizes = x.shape[2:]
    if given.get("ceil_mode"):
        grown = [size + step - 1 for size, step in zip(sizes, window.strides, strict=True)]
        if window.outputs(sizes) != window.outputs(grown):
            raise ValueError(
                "pooling windows that extend beyond the edge are not supported in float64"
            )
    return window


FAST_OPERATORS: tuple[type[Any], ...] = (
    AveragePool,
    BatchNormalization,
    Conv,
    ConvTranspose,
    MaxPool,
)
"""For `onnx.reference.ReferenceEvaluator(new_ops=…)`: the class name is the operator's."""
