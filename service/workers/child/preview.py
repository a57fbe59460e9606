"""Preview samples before a run: what the model sees of them, and which preprocessing fits."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import bn_ops
from bn_ops.core.signature import TensorInfo, check_batch
from bn_ops.errors import ModelError, OptionError
from bn_ops.preprocess import Preprocess, check_preprocess, preprocess_from_json
from bn_ops.preprocess.images import normalized
from bn_ops.preprocess.presets import PRESETS, fitted
from service.formats.layout import inputs_from_json
from service.formats.registry import Arrays
from service.workers.child.samples import holds_images, read_arrays, read_images
from service.workers.messages import WorkerTask

MAX_PICTURES = 8
# A preview, not a copy: larger pictures are reduced by leaving out pixels.
MAX_SIDE = 384
_LEVELS = 255.0
_IMAGE_RANK = 3
_CHANNELS = (1, 3)


def preview(task: WorkerTask) -> dict[str, Any]:
    """Return the members of `service.samples.schemas.PreviewOut`.

    Raises:
        BatchMalformedError: the file is not one of its format.
        ImageError: no image can be used.
        BatchError: the arrays do not fit the model.
        OptionError: the preprocessing does not fit the model.
    """
    return _images(task) if holds_images(task) else _arrays(task)


def _images(task: WorkerTask) -> dict[str, Any]:
    inputs = inputs_from_json(task.inputs)
    presets = _presets(inputs, task.options.get("size"))
    found = read_images(task)
    geometry = None
    pixels: list[tuple[str, NDArray[Any]]] = []
    ranking = []
    if presets:  # all of the same geometry
        geometry = next(iter(presets.values())).without_normalization()
        pixels = found.arrays(geometry)
        ranking = _ranking(task, [array for _, array in pixels], presets)
    form = task.options.get("preprocess")
    if form is not None:
        chosen = preprocess_from_json(form)
    elif presets:
        chosen = preprocess_from_json(ranking[0]["preprocess"]) if ranking else presets["imagenet"]
    else:
        chosen = None
    if chosen is None:
        raise OptionError(
            "the model does not state the size of its images: state height and width, or pass a "
            "preprocessing"
        )
    check_preprocess(chosen, inputs)
    if chosen.without_normalization() != geometry:
        pixels = found.arrays(chosen.without_normalization())
    found.require_any(pixels)
    arrays = [(name, normalized(array, chosen)) for name, array in pixels]
    batches: list[Arrays] = [{inputs[0].name: array[None]} for _, array in arrays]
    return {
        "samples": len(arrays),
        "skipped": found.skipped_json(),
        "preprocess": chosen.to_json(),
        "presets": {name: one.to_json() for name, one in presets.items()},
        "ranking": ranking,
        "check": _check(task, batches),
        "pictures": [_picture(name, array, chosen) for name, array in arrays[:MAX_PICTURES]],
    }


def _arrays(task: WorkerTask) -> dict[str, Any]:
    inputs = inputs_from_json(task.inputs)
    batches = list(read_arrays(task))
    samples = sum(check_batch(inputs, part, batch=None) for part in batches)
    shown = [
        (f"sample {number}", array)
        for number, array in enumerate(
            array for part in batches for array in part.get(inputs[0].name, ())
        )
        if _channels_last(array) is not None
    ]
    return {
        "samples": samples,
        "skipped": [],
        "preprocess": None,
        "presets": {},
        "ranking": [],
        "check": _check(task, batches),
        "pictures": [_picture(name, array, None) for name, array in shown[:MAX_PICTURES]],
    }


def _presets(inputs: Sequence[TensorInfo], size: Sequence[int] | None) -> dict[str, Preprocess]:
    """Return the presets that fit the model; empty if it takes no images or states no size."""
    found = {}
    for name in PRESETS:
        try:
            found[name] = fitted(name, inputs, size=None if size is None else (size[0], size[1]))
        except OptionError:
            continue
    return found


def _ranking(
    task: WorkerTask, pixels: Sequence[NDArray[Any]], presets: dict[str, Preprocess]
) -> list[dict[str, Any]]:
    """Return the presets by distance; empty for a model whose layers hold no statistics."""
    if not pixels:
        return []
    threads = task.limits.threads or None
    try:
        scores = bn_ops.rank_preprocessings(task.model, np.stack(pixels), threads=threads)
    except (ModelError, OptionError):
        return []
    return [
        {
            "name": score.name,
            "color_order": score.color_order,
            "distance": score.distance,
            "preprocess": _sized(score.preprocess, presets[score.name]).to_json(),
        }
        for score in scores
        if score.name in presets  # without those that normalize twice
    ]


def _sized(values: Preprocess, fit: Preprocess) -> Preprocess:
    """Return the values of one preprocessing with the geometry of another."""
    color = "gray" if fit.color == "gray" else values.color
    return replace(fit, color=color, scale=values.scale, mean=values.mean, std=values.std)


def _check(task: WorkerTask, batches: Sequence[Arrays]) -> dict[str, Any] | None:
    """Return the input check; None if the model has no statistics to compare with."""
    threads = task.limits.threads or None
    try:
        found = bn_ops.check_input(task.model, batches, threads=threads, allow_mismatch=True)
    except ModelError:
        return None
    return {
        "plausible": found.plausible,
        "distance": found.distance,
        "threshold": found.threshold,
        "findings": [one.to_json() for one in found.findings],
    }


def _picture(name: str, array: NDArray[Any], how: Preprocess | None) -> dict[str, Any]:
    """Return one sample as a PNG picture in base64, with the range of its values."""
    values = np.asarray(array, np.float64)
    channels_last = how.layout == "nhwc" if how is not None else bool(_channels_last(array))
    pixels = values if channels_last else values.transpose(1, 2, 0)
    if how is None:
        low, high = float(pixels.min()), float(pixels.max())
        levels = (pixels - low) * (_LEVELS / (high - low) if high > low else 0.0)
    else:
        levels = (pixels * np.array(how.std) + np.array(how.mean)) / how.scale
        if how.color == "bgr":
            levels = levels[:, :, ::-1]
    step = max(1, -(-max(levels.shape[:2]) // MAX_SIDE))
    shown = np.clip(np.rint(levels[::step, ::step]), 0, _LEVELS).astype(np.uint8)
    return {
        "name": name,
        "png": base64.b64encode(_png(shown)).decode(),
        "width": int(pixels.shape[1]),
        "height": int(pixels.shape[0]),
        "minimum": float(values.min()),
        "maximum": float(values.max()),
    }


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image  # noqa: PLC0415 - optional

    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _channels_last(sample: NDArray[Any]) -> bool | None:
    """Return whether the channels of one sample come last; None if it is not an image."""
    if sample.ndim != _IMAGE_RANK:
        return None
    if sample.shape[0] in _CHANNELS:
        return False
    return True if sample.shape[2] in _CHANNELS else None
