"""The input check and the ranking of preprocessings, for every kind of model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.engines.onnx.describe import require_layers
from bn_ops.engines.onnx.network_start import OnnxStart
from bn_ops.engines.onnx.prepare import prepare
from bn_ops.errors import (
    EngineError,
    ModelWithoutBatchNormError,
    OptionError,
    StreamEmptyError,
)
from bn_ops.input_check.judging import (
    MAX_SAMPLES,
    check_start,
    measure_images,
    require_plausible,
)
from bn_ops.input_check.network_start import NetworkStart
from bn_ops.input_check.ranking import scored
from bn_ops.input_check.result import InputCheck, PreprocessingScore
from bn_ops.model_sources import as_onnx, is_torch
from bn_ops.onnx_files.load import load_model

if TYPE_CHECKING:
    from bn_ops.core.batches import Select

__all__ = ["check_input", "rank_preprocessings"]

_IMAGE_AXES = (3, 4)


def check_input(
    model: Any,
    batches: Iterable[Any],
    *,
    select: Select | None = None,
    call: Callable[[Any, Any], object] | None = None,
    threads: int | None = None,
    allow_mismatch: bool = False,
) -> InputCheck:
    """Check whether data can be what a model was trained on, before anything else is done with it.

    The inputs of the first BatchNorm layers are compared with the statistics stored there, and
    images are looked at for the usual faults. How it is decided: `bn_ops.input_check.judging`.

    Args:
        model: as for `bn_ops.recalibrate`. Not changed.
        batches: as for `bn_ops.recalibrate`; at most 64 samples are read.
        select: applied to each item of the stream first.
        call: runs an `nn.Module` in any other way; then only moments are compared.
        threads: threads within an operator (ONNX); None means every core.
        allow_mismatch: return the findings instead of raising.

    Raises:
        InputMismatchError: the data cannot be what the model was trained on.
        StreamEmptyError: there is no sample.
        BatchError: a batch does not fit the model, or holds NaN or Inf.
        ModelError: the model has no BatchNorm layer with stored statistics.
    """
    start = _start(model, call, threads)
    found = start.batches(batches, select=select, samples=MAX_SAMPLES)
    if not found:
        raise StreamEmptyError("the stream holds no sample to check")
    check = check_start(start, found)
    if not allow_mismatch:
        require_plausible(check)
    return check


def rank_preprocessings(
    model: Any, images: Any, *, threads: int | None = None
) -> tuple[PreprocessingScore, ...]:
    """Rank the common preprocessings by how close they bring a model's first layers to training.

    Args:
        model: an ONNX model or an `nn.Module` with one image input. Not changed.
        images: RGB or gray images as uint8, resized to what the model takes: an array of shape
            (n, H, W, 3), (n, H, W) or (n, H, W, 1), or a sequence of such images. 16 to 64 of them
            are enough.
        threads: threads within an operator (ONNX); None means every core.

    Returns:
        The closest first. A distance below 0.5 σ is usual for the right one.

    Raises:
        OptionError: `images` is not such an array, or the model does not take images.
        ModelError: the model has no BatchNorm layer with stored statistics.
    """
    pixels = _pixels(images)
    start = _start(model, None, threads)
    name, dtype, channels_last = "input", np.dtype(np.float32), False
    if isinstance(start, OnnxStart):
        if len(start.inputs) != 1:
            raise OptionError("rank_preprocessings needs a model with one input")
        info = start.inputs[0]
        name = info.name
        dtype = np.dtype("float32" if info.dtype == "bfloat16" else info.dtype)
        channels_last = bool(info.shape and info.shape[-1] == pixels.shape[1])
    measure = measure_images(start, name, dtype, channels_last=channels_last)
    try:
        return scored(pixels.astype(np.float32), measure)
    except EngineError as error:
        raise OptionError(
            f"the model does not take images of shape {list(pixels.shape[1:])} (C, H, W): "
            f"{error.message}"
        ) from error


def _start(
    model: Any, call: Callable[[Any, Any], object] | None, threads: int | None
) -> NetworkStart:
    if is_torch(model):
        from bn_ops.engines.torch.network_start import TorchStart  # noqa: PLC0415 - torch is optional

        return TorchStart(model, call)
    if call is not None:
        raise OptionError("call= is for an nn.Module")
    prepared = prepare(load_model(as_onnx(model)))
    require_layers(prepared)
    if not prepared.eligible:
        raise ModelWithoutBatchNormError(
            f"none of the model's BatchNorm layers has usable statistics; "
            f"{prepared.layers[0].name!r}: {prepared.layers[0].reason}"
        )
    return OnnxStart(prepared, threads=threads)


def _pixels(images: Any) -> NDArray[np.uint8]:
    """Return images as planes (n, C, H, W)."""
    try:
        array = np.stack([np.asarray(image) for image in images])
    except (ValueError, TypeError) as error:
        raise OptionError(f"images have one size, which the model takes: {error}") from error
    if array.dtype != np.uint8 or array.ndim not in _IMAGE_AXES:
        raise OptionError(
            f"images are uint8 of shape (n, H, W, 3) or (n, H, W), got {array.dtype} of shape "
            f"{list(array.shape)}"
        )
    planes = array[:, None] if array.ndim == min(_IMAGE_AXES) else array.transpose(0, 3, 1, 2)
    if planes.shape[1] not in {1, 3}:
        raise OptionError(f"images have one or three channels, got {planes.shape[1]}")
    return planes
