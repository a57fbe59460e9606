"""Float64 oracle of exact recalibration in torch, independent of the engine.

The whole data set passes through a float64 copy as one batch. Each BatchNorm is set to the moments
of its input before it normalizes, as in one train-mode batch without dropout.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

Statistics = dict[str, tuple[torch.Tensor, torch.Tensor]]


def batchnorms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module with running statistics once, with its first name."""
    for name, module in model.named_modules():
        if isinstance(getattr(module, "running_mean", None), torch.Tensor):
            yield name, module


def stored(model: nn.Module) -> Statistics:
    return {
        name: (m.get_buffer("running_mean").double(), m.get_buffer("running_var").double())
        for name, m in batchnorms(model)
    }


def population(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    axes = [0, *range(2, x.ndim)]
    return x.mean(axes), x.var(axes, correction=0)


def double(value: Any) -> Any:
    def widen(leaf: Any) -> Any:
        floating = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return leaf.double() if floating else leaf

    return pytree.tree_map(widen, value)


def exact_statistics(model: nn.Module, data: Any, *, passes: int = 1) -> Statistics:
    """Return the expected statistics of each layer after exact recalibration on `data`.

    With several passes, layers that are called more than once use the pooled statistics of the
    previous pass, which converges to their fixed point.
    """
    twin = double_copy(model)
    shared: frozenset[str] = frozenset()
    for _ in range(passes):
        calls = _one_pass(twin, data, fixed=shared)
        shared = frozenset(name for name, inputs in calls.items() if len(inputs) > 1)
    return stored(twin)


def _one_pass(
    twin: nn.Module, data: Any, *, fixed: frozenset[str]
) -> dict[str, list[torch.Tensor]]:
    calls: dict[str, list[torch.Tensor]] = defaultdict(list)

    def arrive(name: str, module: nn.Module, x: torch.Tensor) -> None:
        calls[name].append(x)
        if name not in fixed and len(calls[name]) == 1:
            _set(module, *population(x))

    with _observing(twin, arrive):
        run(twin, data)
    for name, module in batchnorms(twin):
        if len(calls[name]) > 1:
            _set(module, *population(_joined(calls[name])))
    return calls


def observed_statistics(model: nn.Module, data: Any) -> Statistics:
    """Return the moments of the input of each layer in eval mode, pooled over its calls."""
    twin = double_copy(model)
    calls: dict[str, list[torch.Tensor]] = defaultdict(list)
    with _observing(twin, lambda name, _, x: calls[name].append(x)):
        run(twin, data)
    return {name: population(_joined(xs)) for name, xs in calls.items()}


def residual(have: Statistics, want: Statistics) -> float:
    """Return the maximum of |Δmean|/σ and |var ratio - 1| over all channels of `want`."""
    worst = 0.0
    for name, (mean, var) in want.items():
        shift = (have[name][0] - mean).abs() / var.sqrt()
        ratio = (have[name][1] / var - 1).abs()
        worst = max(worst, float(shift.max()), float(ratio.max()))
    return worst


def run(model: nn.Module, data: Any) -> Any:
    with torch.no_grad():
        if isinstance(data, Mapping):
            return model(**double_like(model, data))
        args = data if isinstance(data, tuple) else (data,)
        return model(*double_like(model, args))


def double_like(model: nn.Module, value: Any) -> Any:
    first = next(model.parameters(), None)
    return double(value) if first is not None and first.dtype == torch.float64 else value


def double_copy(model: nn.Module) -> nn.Module:
    twin = copy.deepcopy(model).double()
    for module in twin.modules():
        module.training = False
    return twin


def _set(module: nn.Module, mean: torch.Tensor, var: torch.Tensor) -> None:
    module.get_buffer("running_mean").copy_(mean)
    module.get_buffer("running_var").copy_(var)


def _joined(calls: list[torch.Tensor]) -> torch.Tensor:
    flat = [x.movedim(1, -1).reshape(-1, x.shape[1]) for x in calls]
    return torch.cat(flat)


@contextmanager
def _observing(
    model: nn.Module, seen: Callable[[str, nn.Module, torch.Tensor], object]
) -> Iterator[None]:
    def hook_of(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            with torch.no_grad():
                seen(name, module, args[0])

        return hook

    handles = [m.register_forward_pre_hook(hook_of(name)) for name, m in batchnorms(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
