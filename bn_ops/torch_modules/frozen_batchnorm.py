"""Recognize modules that act like BatchNorm in eval mode without being torch's BatchNorm.

FrozenBatchNorm2d of torchvision and detectron2, and its many copies, keep `running_mean`,
`running_var`, `weight` and `bias` as buffers and compute the affine form themselves. A module is
recognized by these names, or by those of a registered form, and then by its behavior: it counts
only if it returns the same as `torch.nn.functional.batch_norm` on a small probe.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["FrozenForm", "form_of", "frozen_eps", "normalize", "register_frozen"]

# Tried in this order; four axes are by far the most common.
_PROBE_SPACES = ((3, 2), (5,), (), (2, 3, 2))
_PROBE_SAMPLES = 2
_DEFAULT_EPS = (1e-5, 0.0, 1e-3)
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenForm:
    """Names of the tensors and of epsilon in a module class that acts like BatchNorm.

    Attributes:
        mean, var: buffers of shape (C,).
        weight, bias: tensors of shape (C,), or None where absent.
        eps: attribute with epsilon.
    """

    mean: str = "running_mean"
    var: str = "running_var"
    weight: str = "weight"
    bias: str = "bias"
    eps: str = "eps"


_REGISTERED: dict[type[torch.nn.Module], FrozenForm] = {}


def register_frozen(kind: type[torch.nn.Module], form: FrozenForm) -> None:
    """Register a class whose buffers have other names than torchvision's.

    An instance is still treated as a layer only if it acts like BatchNorm in eval mode.
    """
    _REGISTERED[kind] = form


def form_of(module: torch.nn.Module) -> FrozenForm:
    """Return the form registered for a module's class or a base class, or the default form."""
    return next((_REGISTERED[k] for k in type(module).__mro__ if k in _REGISTERED), FrozenForm())


def frozen_eps(module: torch.nn.Module) -> float | None:
    """Return the epsilon of a frozen BatchNorm, or None if the module does not act like one."""
    form = form_of(module)
    if isinstance(module, _BatchNorm) or not _has_tensors(module, form):
        return None
    stated = getattr(module, form.eps, None)
    candidates = (float(stated),) if isinstance(stated, float | int) else _DEFAULT_EPS
    return next((eps for eps in candidates if _behaves(module, eps)), None)


def normalize(module: torch.nn.Module, x: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the module's output, computed by `batch_norm`, the operator that exporters know."""
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
    if form.mean not in module._buffers:  # noqa: SLF001 - `named_buffers` takes 20 times as long
        return False
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
            # `forward` is called directly, so that a user's hooks do not see the probe.
            found = module.forward(probe.to(mean))
            expected = normalize(module, probe.to(mean), eps)
    except Exception:  # noqa: BLE001 - an unknown forward may raise anything
        return False
    if not isinstance(found, torch.Tensor) or found.shape != expected.shape:
        return False
    close = torch.isclose(found.double(), expected.double(), rtol=_TOLERANCE, atol=_TOLERANCE)
    return bool(close.all())
