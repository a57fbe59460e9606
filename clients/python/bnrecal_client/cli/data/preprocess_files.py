"""Preprocessing by name, or from files: bnrecal's JSON form, Hugging Face's and timm's.

Sources: `preprocessor_config.json` of transformers' image processors (`ImageProcessingMixin`), and
`config.json` of timm, whose `pretrained_cfg` follows `timm.data.resolve_data_config`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bnrecal_client.cli.click_support import suggestion
from bnrecal_client.errors import OptionError

__all__ = ["PRESETS", "fitted", "preset", "read_preprocess"]

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


# The values are those of `bn_ops.preprocess.presets`; the client does not import bn_ops, and a test
# compares them.
PRESETS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        "unit": {},
        "tf": {"scale": 1 / 127.5, "mean": 1.0},
        "caffe": {"color": "bgr", "scale": 1.0, "mean": [103.939, 116.779, 123.68]},
        "none": {"scale": 1.0},
    }
)
"""`imagenet`: mean and standard deviation of ImageNet; `unit`: 0…1; `tf`: −1…1; `caffe`: BGR, 0…255
minus ImageNet's means; `none`: 0…255."""

# Crop and resize of torchvision's reference transforms: 224 of 256.
_CROP_SHARE = 224 / 256

_IMAGE_RANK = 4
_LAYOUTS = ((1, "nchw"), (3, "nhwc"))


def preset(
    name: str,
    shapes: Sequence[Sequence[int | str | None] | None],
    *,
    option: str = "--preprocess",
) -> dict[str, object]:
    """Return a preset with the size, layout and colors of a model's input.

    Args:
        name: one of `PRESETS`.
        shapes: shape of each input; an int where the model requires a size.
        option: the option that needs it, for messages.

    Returns:
        The JSON form. Images are resized so that the center crop covers 87.5 % of the shorter side,
        as in torchvision's reference transforms.

    Raises:
        OptionError: the model does not take one image, or leaves its size open.
    """
    height, width, layout, channels = _size(option, name, shapes)
    form: dict[str, object] = dict(PRESETS[name])
    if channels == 1:
        if name in {"imagenet", "caffe"}:
            raise OptionError(
                f"--preprocess {name} is for color images, and the model takes one channel"
            )
        form["color"] = "gray"
    rows, columns = round(height / _CROP_SHARE), round(width / _CROP_SHARE)
    form["resize"] = rows if rows == columns else [rows, columns]
    return {**form, "crop": [height, width], "layout": layout}


def fitted(
    form: Mapping[str, object], shapes: Sequence[Sequence[int | str | None] | None]
) -> dict[str, object]:
    """Return a form whose layout, colors and size, where left open, are those of a model's input.

    Args:
        form: the JSON form of a preprocessing.
        shapes: shape of each input of the model.
    """
    try:
        height, width, layout, channels = _size("", "", shapes)
    except OptionError:
        return dict(form)  # the server or bn_ops reports what does not fit
    found = {"layout": layout, **({"color": "gray"} if channels == 1 else {}), **form}
    if "resize" not in form and "crop" not in form:
        found["resize"] = [height, width]
    return found


def _size(
    option: str, name: str, shapes: Sequence[Sequence[int | str | None] | None]
) -> tuple[int, int, str, int]:
    """Return height, width, layout and channels of the one image input."""
    shape = shapes[0] if len(shapes) == 1 else None
    if shape is not None and len(shape) == _IMAGE_RANK:
        for axis, layout in _LAYOUTS:
            channels = shape[axis]
            height, width = (size for place, size in enumerate(shape[1:], 1) if place != axis)
            if channels in {1, 3} and isinstance(height, int) and isinstance(width, int):
                assert isinstance(channels, int)
                return height, width, layout, channels
    what = f"{option} {name}" if option == "--preprocess" else option
    instead = (
        ': pass a JSON file with "resize" and "crop" instead' if option == "--preprocess" else ""
    )
    raise OptionError(
        f"{what} needs a model with one image input of known height and width{instead}"
    )
