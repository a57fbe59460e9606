"""From image files to the arrays that a model takes: the same code in-process and in the service.

`value` is light (numpy only), so that a server can check options without loading an image library;
`images` needs Pillow (`pip install "bnrecal[images]"`) and loads it when it is first used.
"""

from bn_ops.preprocess.fitting import check_preprocess
from bn_ops.preprocess.images import image_arrays, image_batches
from bn_ops.preprocess.json_form import preprocess_from_json
from bn_ops.preprocess.value import Preprocess, Resize

__all__ = [
    "Preprocess",
    "Resize",
    "check_preprocess",
    "image_arrays",
    "image_batches",
    "preprocess_from_json",
]
