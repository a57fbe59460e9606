"""`adapt` whole, compared with the exact pass that it contains, for short and long streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

import bn_ops

if TYPE_CHECKING:
    import onnx

__all__ = ["IMAGES", "NETWORKS", "adaptations"]

NETWORKS = ("resnet18", "efficientnet_b0", "mobilenet_v2")
IMAGES = (32, 256)


def adaptations(
    model: onnx.ModelProto, arrays: list[np.ndarray], *, threads: int
) -> Mapping[str, Callable[[], object]]:
    """Return the exact pass, and `adapt` with a fixed and with the default estimator."""
    return {
        "onnx exact": lambda: bn_ops.recalibrate(model, arrays, threads=threads),
        "adapt, replace": lambda: bn_ops.adapt(
            model, arrays, threads=threads, estimator="replace", allow_mismatch=True
        ),
        "adapt, auto": lambda: bn_ops.adapt(model, arrays, threads=threads, allow_mismatch=True),
    }
