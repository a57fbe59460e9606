"""The torch engine: recalibrates any module on any device, without tracing it."""

from bn_ops.engines.torch.engine import describe_module
from bn_ops.engines.torch.frontier import TorchFrontier
from bn_ops.engines.torch.loading import load_statistics
from bn_ops.torch_modules.frozen_batchnorm import FrozenForm, register_frozen

__all__ = [
    "FrozenForm",
    "TorchFrontier",
    "describe_module",
    "load_statistics",
    "register_frozen",
]
