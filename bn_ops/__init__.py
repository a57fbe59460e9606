"""bn_ops: exact BatchNorm recalibration, folding and verification.

Arrays, torch modules and ONNX graphs in, values out. This package knows no HTTP, no database and no
environment variable. Names load on first use, so that a light module (`bn_ops.signature`,
`bn_ops.errors`) can be imported without onnx, onnxruntime or torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bn_ops.api import describe as describe
    from bn_ops.api import inspect as inspect
    from bn_ops.api import recalibrate as recalibrate
    from bn_ops.budget import Budget as Budget
    from bn_ops.errors import BnOpsError as BnOpsError
    from bn_ops.errors import CancelledError as CancelledError
    from bn_ops.estimators import Momentum as Momentum
    from bn_ops.estimators import Prior as Prior
    from bn_ops.estimators import Replace as Replace
    from bn_ops.estimators import estimator_from_json as estimator_from_json
    from bn_ops.layers import LayerInfo as LayerInfo
    from bn_ops.layers import ModelInfo as ModelInfo
    from bn_ops.progress import Progress as Progress
    from bn_ops.recalibration import Recalibration as Recalibration
    from bn_ops.statistics import RunningStatistics as RunningStatistics
    from bn_ops.version import __version__ as __version__

__all__ = [
    "BnOpsError",
    "Budget",
    "CancelledError",
    "LayerInfo",
    "ModelInfo",
    "Momentum",
    "Prior",
    "Progress",
    "Recalibration",
    "Replace",
    "RunningStatistics",
    "__version__",
    "describe",
    "estimator_from_json",
    "inspect",
    "recalibrate",
]

# Where each public name lives.
_HOME = {
    "Budget": "bn_ops.budget",
    "BnOpsError": "bn_ops.errors",
    "CancelledError": "bn_ops.errors",
    "LayerInfo": "bn_ops.layers",
    "ModelInfo": "bn_ops.layers",
    "Momentum": "bn_ops.estimators",
    "Prior": "bn_ops.estimators",
    "Progress": "bn_ops.progress",
    "Recalibration": "bn_ops.recalibration",
    "Replace": "bn_ops.estimators",
    "RunningStatistics": "bn_ops.statistics",
    "__version__": "bn_ops.version",
    "describe": "bn_ops.api",
    "estimator_from_json": "bn_ops.estimators",
    "inspect": "bn_ops.api",
    "recalibrate": "bn_ops.api",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'bn_ops' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOME)
