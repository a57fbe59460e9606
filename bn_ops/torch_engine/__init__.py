"""The torch engine: exact recalibration of any module on any device, without tracing it."""

from bn_ops.torch_engine._frozen import FrozenForm, register_frozen
from bn_ops.torch_engine.frontier import TorchFrontier
from bn_ops.torch_engine.loading import load_statistics
from bn_ops.torch_engine.recalibrate import describe_module, recalibrate_module

__all__ = [
    "FrozenForm",
    "TorchFrontier",
    "describe_module",
    "load_statistics",
    "recalibrate_module",
    "register_frozen",
]
