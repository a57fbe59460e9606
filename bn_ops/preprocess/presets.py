"""The preprocessings that most published image networks were trained with, by name.

Sources: torchvision's reference transforms (`imagenet`), Keras `imagenet_utils.preprocess_input`
with its modes `tf` and `caffe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from bn_ops.errors import OptionError
from bn_ops.preprocess.value import Preprocess

__all__ = ["PRESETS", "preset"]

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
