"""Preprocess image files to arrays, with the same code in-process and in the service.

`value` is light (numpy only), so that a server can check options without loading an image library;
`images` requires Pillow (`pip install "bnrecal[images]"`) and loads it on first use.
"""

from bn_ops.preprocess.images import image_arrays, image_batches
from bn_ops.preprocess.value import Preprocess, Resize, check_preprocess, preprocess_from_json

__all__ = [
    "Preprocess",
    "Resize",
    "check_preprocess",
    "image_arrays",
    "image_batches",
    "preprocess_from_json",
]
