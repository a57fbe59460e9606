"""Operators that replace those of onnx.reference, which loop over positions in Python."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx.reference.op_run import OpRun

from bn_ops.core.statistics import Float64Array

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["FAST_OPERATORS", "Window", "average", "convolve", "maximum", "transposed"]

# Convolution and pooling in float64.
#
# The patches of a convolution are strided views of the padded input, copied in parts that bound the
# memory, so that the work runs in BLAS. Layout is (N, C, *spatial) throughout.

_Tap = tuple[tuple[int, ...], tuple[slice, ...]]

_PATCH_VALUES = 1 << 21
"""Values of one matrix of patches: 16 MiB, enough for BLAS to reach its full speed."""

_CACHED_VALUES = 1 << 15
"""Values of a sum over kernel positions: 256 KiB, so that it stays in a processor's cache."""


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

    @property
    def is_point(self) -> bool:
        """Return whether each position of the output reads the same position of the input only."""
        return not any(self.pads) and all(size == 1 for size in (*self.kernel, *self.strides))

    def outputs(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Return the number of positions per axis."""
        rank = len(self.kernel)
        return tuple(
            (sizes[i] + self.pads[i] + self.pads[i + rank] - self._reach(i)) // self.strides[i] + 1
            for i in range(rank)
        )

    def padded(self, array: Float64Array, fill: float) -> Float64Array:
        """Pad the spatial axes; without padding, return the array itself."""
        if not any(self.pads):
            return array
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

    def patches(self, padded: Float64Array, outputs: Sequence[int]) -> Float64Array:
        """View a padded input (C, *spatial) as (C, *kernel, *outputs), without a copy."""
        steps = padded.strides[1:]
        taps = [step * spread for step, spread in zip(steps, self.dilations, strict=True)]
        moves = [step * stride for step, stride in zip(steps, self.strides, strict=True)]
        return np.lib.stride_tricks.as_strided(
            padded,
            (padded.shape[0], *self.kernel, *outputs),
            (padded.strides[0], *taps, *moves),
            writeable=False,
        )

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
    result = np.empty((batch, groups, out // groups, *outputs))
    split = weight.reshape(groups, out // groups, *weight.shape[1:])
    # (N, groups, C_in/groups, *padded spatial)
    grouped = padded.reshape(batch, groups, channels, *padded.shape[2:])
    if channels == 1:
        _sum_taps(grouped, split, window, result)
    elif window.is_point:
        # (groups, C_out/groups, C_in/groups) times (N, groups, C_in/groups, positions)
        rows, values = split.reshape(split.shape[:3]), grouped.reshape(*grouped.shape[:3], -1)
        np.matmul(rows, values, out=result.reshape(*result.shape[:3], -1))
    else:
        _multiply_patches(grouped, split, window, result)
    return result.reshape(batch, out, *outputs)


def _sum_taps(x: Float64Array, weight: Float64Array, window: Window, result: Float64Array) -> None:
    """Convolve groups of one input channel: one scaled view per kernel position.

    A product over one channel is not a sum, for which BLAS takes twice the time.
    """
    per_group, outputs = weight.shape[1], result.shape[3:]
    taps = list(window.taps(outputs))
    step = max(1, _CACHED_VALUES // max(1, per_group * math.prod(outputs)))
    for sample in range(len(x)):
        for start in range(0, x.shape[1], step):
            part = slice(start, start + step)
            total, source = result[sample, part], x[sample, part]
            total[:] = 0.0
            scaled = np.empty_like(total)
            for tap, where in taps:
                factor = weight[part][_tap(tap)].reshape(-1, per_group, *(1,) * len(outputs))
                np.multiply(source[where], factor, out=scaled)
                total += scaled


def _multiply_patches(
    x: Float64Array, weight: Float64Array, window: Window, result: Float64Array
) -> None:
    """Convolve by a matrix product: weights times the patches that each position reads."""
    groups, per_group = weight.shape[:2]
    rows = weight.reshape(groups, per_group, -1)
    outputs = result.shape[3:]
    slabs, width = outputs[0], math.prod(outputs[1:])
    step = max(1, _PATCH_VALUES // (rows.shape[2] * width))
    for sample in range(len(x)):
        for group in range(groups):
            patches = window.patches(x[sample, group], outputs)
            for start in range(0, slabs, step):
                part = slice(start, start + step)
                # (C_in/groups, *kernel, *positions) as a matrix; copied where windows overlap.
                seen = patches[_rows_of_positions(part, len(outputs))]
                found = rows[group] @ seen.reshape(rows.shape[2], -1)
                result[sample, group, :, part] = found.reshape(per_group, -1, *outputs[1:])


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


def _rows_of_positions(part: slice, rank: int) -> Any:
    """Return the index of some rows along the first of `rank` trailing axes."""
    return (..., part, *(slice(None),) * (rank - 1))


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
        result = x * gain.reshape(shape)
        result += (shift - gain * mean).reshape(shape)
        return (result,)


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


class Sigmoid(OpRun):
    """The logistic function; onnx's own form selects the positive and the negative numbers."""

    def _run(self, x: Float64Array) -> tuple[Float64Array]:
        # 1/(1 + exp(-x)) and its mirror image, neither of which overflows.
        small = np.abs(x)
        np.exp(np.negative(small, out=small), out=small)
        result = np.where(x < 0, small, 1.0)
        small += 1.0
        result /= small
        return (result,)


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
    if bias is not None:
        result += bias.reshape(-1, *(1,) * (result.ndim - 2))
    return result


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
    Sigmoid,
)
"""For `onnx.reference.ReferenceEvaluator(new_ops=…)`: the class name is the operator's."""
