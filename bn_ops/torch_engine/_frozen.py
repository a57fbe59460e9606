"""Modules that normalise like BatchNorm in eval mode without being torch's BatchNorm.

torchvision's and detectron2's FrozenBatchNorm2d and their many copies hold `running_mean`,
`running_var`, `weight` and `bias` as buffers and compute the affine form themselves. They are
recognised by those names and then by behaviour: a module counts only if it returns, on a small
probe, what `torch.nn.functional.batch_norm` returns.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["frozen_eps", "normalise"]

# Probed in this order; the 4-axis form is by far the most common.
_PROBE_SPACES = ((3, 2), (5,), (), (2, 3, 2))
_PROBE_SAMPLES = 2
_EPS_WHERE_UNSAID = (1e-5, 0.0, 1e-3)


def frozen_eps(module: torch.nn.Module) -> float | None:
    """Return the epsilon of a frozen BatchNorm look-alike; None when it is none."""
    if isinstance(module, _BatchNorm) or not _has_tensors(module):
        return None
    said = getattr(module, "eps", None)
    candidates = (float(said),) if isinstance(said, float | int) else _EPS_WHERE_UNSAID
    return next((eps for eps in candidates if _behaves(module, eps)), None)


def normalise(module: torch.nn.Module, x: torch.Tensor, eps: float) -> torch.Tensor:
    """Compute what the module computes, through the one operator that exporters know."""
    return functional.batch_norm(
        x,
        module.get_buffer("running_mean"),
        module.get_buffer("running_var"),
        _tensor(module, "weight"),
        _tensor(module, "bias"),
        training=False,
        momentum=0.0,
        eps=eps,
    )


def _has_tensors(module: torch.nn.Module) -> bool:
    buffers = dict(module.named_buffers(recurse=False))
    mean, var = buffers.get("running_mean"), buffers.get("running_var")
    if mean is None or var is None or mean.ndim != 1 or mean.shape != var.shape:
        return False
    affine = (_tensor(module, name) for name in ("weight", "bias"))
    return all(t is None or t.shape == mean.shape for t in affine) and not list(module.children())


def _tensor(module: torch.nn.Module, name: str) -> torch.Tensor | None:
    found = getattr(module, name, None)
    return found if isinstance(found, torch.Tensor) else None


def _behaves(module: torch.nn.Module, eps: float) -> bool:
    return any(_agrees_on(module, eps, space) for space in _PROBE_SPACES)


def _agrees_on(module: torch.nn.Module, eps: float, space: tuple[int, ...]) -> bool:
    mean = module.get_buffer("running_mean")
    ramp = torch.linspace(-1.0, 1.0, _PROBE_SAMPLES * mean.numel() * _volume(space))
    probe = ramp.reshape(_PROBE_SAMPLES, mean.numel(), *space).to(mean)
    try:
        with torch.no_grad():
            # `forward` directly: a user's hooks must not see the probe.
            found = module.forward(probe)
            wanted = normalise(module, probe, eps)
    except Exception:  # noqa: BLE001 - a foreign forward may refuse the probe in any way
        return False
    if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
        return False
    return bool(torch.allclose(found.double(), wanted.double(), rtol=1e-3, atol=1e-3))


def _volume(space: tuple[int, ...]) -> int:
    return int(torch.Size(space).numel())
