"""The preprocessings that most published image networks were trained with, by name.

Sources: torchvision's reference transforms (`imagenet`), Keras `imagenet_utils.preprocess_input`
with its modes `tf` and `caffe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from bn_ops.core.signature import TensorInfo
from bn_ops.errors import OptionError
from bn_ops.preprocess.value import DTYPES, Preprocess, Resize

__all__ = ["PRESETS", "fitted", "image_size", "preset"]

PRESETS: Mapping[str, Preprocess] = MappingProxyType(
    {
        "imagenet": Preprocess(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        "unit": Preprocess(),
        "tf": Preprocess(scale=1 / 127.5, mean=(1.0,)),
        "caffe": Preprocess(color="bgr", scale=1.0, mean=(103.939, 116.779, 123.68)),
        "none": Preprocess(scale=1.0),
    }
)
"""`imagenet`: mean and standard deviation of ImageNet; `unit`: 0…1; `tf`: −1…1; `caffe`: BGR, 0…255
minus ImageNet's means; `none`: 0…255."""


def preset(name: str) -> Preprocess:
    """Return a preset.

    Raises:
        OptionError: there is no preset of that name.
    """
    if name not in PRESETS:
        raise OptionError(f"unknown preprocess preset {name!r}; presets are {', '.join(PRESETS)}")
    return PRESETS[name]


# Crop and resize of torchvision's reference transforms: 224 of 256.
_CROP_SHARE = 224 / 256

_IMAGE_RANK = 4
_LAYOUTS = ((1, "nchw"), (3, "nhwc"))


def fitted(
    name: str, inputs: Sequence[TensorInfo], *, size: tuple[int, int] | None = None
) -> Preprocess:
    """Return a preset with the size, layout, colors and type of a model's input.

    Images are resized so that the center crop covers 87.5 % of the shorter side, as in
    torchvision's reference transforms.

    Args:
        name: one of `PRESETS`.
        inputs: the inputs of the model.
        size: height and width where the model leaves them open.

    Raises:
        OptionError: the model does not take one image, its size is open and `size` is None, or the
            preset is for color images and the model takes one channel.
    """
    found = preset(name)
    layout, channels, known = _image_input(inputs)
    sides = known or size
    if sides is None:
        raise OptionError("the model takes images of any size: state height and width")
    if channels == 1:
        if len(found.mean) > 1:
            raise OptionError(f"{name} is for color images, and the model takes one channel")
        found = replace(found, color="gray")
    high, wide = (round(side / _CROP_SHARE) for side in sides)
    return replace(
        found,
        resize=Resize(size=high if high == wide else (high, wide)),
        crop=sides,
        layout=layout,
        dtype=inputs[0].dtype if inputs[0].dtype in DTYPES else "float32",
    )


def image_size(inputs: Sequence[TensorInfo]) -> tuple[int, int] | None:
    """Return height and width of a model's image input; None where the model leaves them open.

    Raises:
        OptionError: the model does not take one image.
    """
    return _image_input(inputs)[2]


def _image_input(inputs: Sequence[TensorInfo]) -> tuple[str, int, tuple[int, int] | None]:
    """Return layout, channels and, where they are fixed, height and width of the image input."""
    shape = inputs[0].shape if len(inputs) == 1 else None
    if shape is not None and len(shape) == _IMAGE_RANK:
        for axis, layout in _LAYOUTS:
            channels = shape[axis]
            if isinstance(channels, int) and channels in {1, 3}:
                high, wide = (side for place, side in enumerate(shape[1:], 1) if place != axis)
                fixed = isinstance(high, int) and isinstance(wide, int)
                return layout, channels, (int(high), int(wide)) if fixed else None  # type: ignore[arg-type]
    raise OptionError("the model does not take one image of one or three channels")
