"""Operators that replace those of onnx.reference, which loop over positions in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx.reference.op_run import OpRun

from bn_ops.core.statistics import Float64Array
from bn_ops.verification.float64.windows import Window, average, convolve, maximum, transposed

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FAST_OPERATORS"]


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
