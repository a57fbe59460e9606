"""Run an ONNX model in onnxruntime without graph optimizations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bn_ops.onnx_files.session import session

if TYPE_CHECKING:
    import onnx

Array = NDArray[np.generic]


def run_onnx(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    return [
        np.asarray(value)
        for value in session(model.SerializeToString(), optimize=False).run(None, dict(feeds))
    ]
