"""Preprocessing from files: bnrecal's JSON form, Hugging Face's and timm's configurations.

Sources: `preprocessor_config.json` of transformers' image processors (`ImageProcessingMixin`), and
`config.json` of timm, whose `pretrained_cfg` follows `timm.data.resolve_data_config`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnrecal_client.cli.click_support import suggestion
from bnrecal_client.cli.data.presets import PRESETS, fitted
from bnrecal_client.errors import OptionError

__all__ = ["read_preprocess"]

# Numbers of PIL's resampling filters, as transformers stores them.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
_CHANNELS = 3

Shapes = Sequence[Sequence[int | str | None] | None]


def read_preprocess(path: Path, shapes: Callable[[], Shapes]) -> Mapping[str, object]:
    """Return the preprocessing of a file in bnrecal's JSON form.

    Args:
        path: the file.
        shapes: returns the shape of each input of the model. Only a Hugging Face configuration
            needs it, for the layout, the colors and the size where it states none.

    Raises:
        OptionError: the file cannot be read, or describes something that bnrecal cannot do.
    """
    form = _read(path)
    if {"do_resize", "do_normalize", "do_rescale", "image_processor_type"} & form.keys():
        return fitted(_hugging_face(path, form), shapes())
    if {"pretrained_cfg", "input_size", "crop_pct"} & form.keys():
        nested = form.get("pretrained_cfg")
        return _timm(path, nested if isinstance(nested, dict) else form)
    return form


def _read(path: Path) -> dict[str, Any]:
    try:
        form = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        near = suggestion(str(path), PRESETS)
        raise OptionError(
            f"--preprocess {path} is not one of {', '.join(PRESETS)}, and there is no such "
            f"file{near}"
        ) from error
    except (OSError, ValueError) as error:
        raise OptionError(f"--preprocess {path} cannot be read as JSON: {error}") from error
    if not isinstance(form, dict):
        raise OptionError(f'--preprocess {path} does not hold an object, like {{"resize": 256}}')
    return form


def _hugging_face(path: Path, config: Mapping[str, Any]) -> dict[str, object]:
    """Return the form of a transformers image processor."""
    form: dict[str, object] = {}
    if config.get("do_resize", False):
        interpolation = _FILTERS.get(config.get("resample", 2))
        if interpolation is None:
            raise OptionError(f"{path}: resample {config.get('resample')!r} is unknown")
        size = _hugging_face_size(path, "size", config.get("size"))
        # ConvNeXT's processors resize to size / crop_pct and crop to size.
        percent = config.get("crop_pct")
        if isinstance(percent, int | float) and isinstance(size, int):
            form["crop"] = [size, size]
            size = int(size / percent)
        form["resize"] = {"size": size, "interpolation": interpolation}
    if config.get("do_center_crop", False):
        crop = _hugging_face_size(path, "crop_size", config.get("crop_size"))
        form["crop"] = crop if isinstance(crop, list) else [crop, crop]
    factor = config.get("rescale_factor", 1 / 255)
    form["scale"] = float(factor) if config.get("do_rescale", True) else 1.0
    if config.get("do_normalize", False):
        form["mean"] = _numbers(path, "image_mean", config.get("image_mean"))
        form["std"] = _numbers(path, "image_std", config.get("image_std"))
    if config.get("do_flip_channel_order", False):
        form["color"] = "bgr"
    return form


def _hugging_face_size(path: Path, name: str, value: object) -> int | list[int]:
    """Return a size: of the shorter side, or height and width."""
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping):
        if isinstance(side := value.get("shortest_edge"), int) and "longest_edge" not in value:
            return side
        height, width = value.get("height"), value.get("width")
        if isinstance(height, int) and isinstance(width, int):
            return [height, width]
    raise OptionError(
        f"{path}: {name} is {value!r}; bnrecal knows a number, shortest_edge, or height and width"
    )


def _timm(path: Path, config: Mapping[str, Any]) -> dict[str, object]:
    """Return the form of timm's evaluation transforms: resize, then center crop."""
    size = config.get("test_input_size") or config.get("input_size")
    if not (isinstance(size, list | tuple) and len(size) == 3):  # noqa: PLR2004
        raise OptionError(f"{path}: input_size is {size!r}, not [channels, height, width]")
    channels, height, width = size
    percent = float(config.get("test_crop_pct") or config.get("crop_pct") or 0.875)
    if (mode := config.get("crop_mode") or "center") not in {"center", "squash"}:
        raise OptionError(f"{path}: crop_mode {mode!r} is not center or squash")
    scaled = [int(height / percent), int(width / percent)]
    square = mode == "center" and height == width
    form: dict[str, object] = {
        "resize": {
            "size": scaled[0] if square else scaled,
            "interpolation": config.get("interpolation") or "bilinear",
        },
        "crop": [height, width],
        "mean": _numbers(path, "mean", config.get("mean")),
        "std": _numbers(path, "std", config.get("std")),
    }
    return form if channels == _CHANNELS else {**form, "color": "gray"}


def _numbers(path: Path, name: str, value: object) -> list[float]:
    if isinstance(value, list | tuple) and all(isinstance(one, int | float) for one in value):
        return [float(one) for one in value]
    raise OptionError(f"{path}: {name} is {value!r}, not a list of numbers")
