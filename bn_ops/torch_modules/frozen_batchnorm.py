"""Modules that normalise like BatchNorm in eval mode without being torch's BatchNorm.

torchvision's and detectron2's FrozenBatchNorm2d and their many copies hold `running_mean`,
`running_var`, `weight` and `bias` as buffers and compute the affine form themselves. They are
recognised by those names, or by the names in a registered form, and then by behaviour: a module
counts only if it returns, on a small probe, what `torch.nn.functional.batch_norm` returns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["FrozenForm", "form_of", "frozen_eps", "normalise", "register_frozen"]

# Probed in this order; the 4-axis form is by far the most common.
_PROBE_SPACES = ((3, 2), (5,), (), (2, 3, 2))
_PROBE_SAMPLES = 2
_EPS_WHERE_UNSAID = (1e-5, 0.0, 1e-3)
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenForm:
    """Names under which a module class keeps what BatchNorm keeps.

    Attributes:
        mean, var: buffers of shape (C,).
        weight, bias: tensors of shape (C,), or None where absent.
        eps: attribute that holds epsilon.
    """

    mean: str = "running_mean"
    var: str = "running_var"
    weight: str = "weight"
    bias: str = "bias"
    eps: str = "eps"


_REGISTERED: dict[type[torch.nn.Module], FrozenForm] = {}


def register_frozen(kind: type[torch.nn.Module], form: FrozenForm) -> None:
    """Recognise a class whose buffers have other names than torchvision's.

    Its instances still count only where they behave like BatchNorm in eval mode.
    """
    _REGISTERED[kind] = form


def form_of(module: torch.nn.Module) -> FrozenForm:
    """Return the names that hold for a module: its class's, a base class's, or the usual ones."""
    return next((_REGISTERED[k] for k in type(module).__mro__ if k in _REGISTERED), FrozenForm())


def frozen_eps(module: torch.nn.Module) -> float | None:
    """Return the epsilon of a frozen BatchNorm look-alike; None when it is none."""
    form = form_of(module)
    if isinstance(module, _BatchNorm) or not _has_tensors(module, form):
        return None
    said = getattr(module, form.eps, None)
    candidates = (float(said),) if isinstance(said, float | int) else _EPS_WHERE_UNSAID
    return next((eps for eps in candidates if _behaves(module, eps)), None)


def normalise(module: torch.nn.Module, x: torch.Tensor, eps: float) -> torch.Tensor:
    """Compute what the module computes, through the one operator that exporters know."""
    form = form_of(module)
    return functional.batch_norm(
        x,
        getattr(module, form.mean),
        getattr(module, form.var),
        _tensor(module, form.weight),
        _tensor(module, form.bias),
        training=False,
        momentum=0.0,
        eps=eps,
    )


def _has_tensors(module: torch.nn.Module, form: FrozenForm) -> bool:
    buffers = dict(module.named_buffers(recurse=False))
    mean, var = buffers.get(form.mean), buffers.get(form.var)
    if mean is None or var is None or mean.ndim != 1 or mean.shape != var.shape:
        return False
    affine = (_tensor(module, name) for name in (form.weight, form.bias))
    return all(t is None or t.shape == mean.shape for t in affine) and not list(module.children())


def _tensor(module: torch.nn.Module, name: str) -> torch.Tensor | None:
    found = getattr(module, name, None)
    return found if isinstance(found, torch.Tensor) else None


def _behaves(module: torch.nn.Module, eps: float) -> bool:
    return any(_agrees_on(module, eps, space) for space in _PROBE_SPACES)


def _agrees_on(module: torch.nn.Module, eps: float, space: tuple[int, ...]) -> bool:
    mean: torch.Tensor = getattr(module, form_of(module).mean)
    values = _PROBE_SAMPLES * mean.numel() * torch.Size(space).numel()
    probe = torch.linspace(-1.0, 1.0, values).reshape(_PROBE_SAMPLES, mean.numel(), *space)
    try:
        with torch.no_grad():
            # `forward` directly: a user's hooks must not see the probe.
            found = module.forward(probe.to(mean))
            wanted = normalise(module, probe.to(mean), eps)
    except Exception:  # noqa: BLE001 - a foreign forward may refuse the probe in any way
        return False
    if not isinstance(found, torch.Tensor) or found.shape != wanted.shape:
        return False
    close = torch.isclose(found.double(), wanted.double(), rtol=_TOLERANCE, atol=_TOLERANCE)
    return bool(close.all())
