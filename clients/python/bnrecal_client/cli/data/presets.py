"""Preprocessing of images by name, for the size that a model takes.

The values are those of `bn_ops.preprocess.presets`; the client does not import bn_ops, and a test
compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from bnrecal_client.errors import OptionError

__all__ = ["PRESETS", "fitted", "preset"]

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
