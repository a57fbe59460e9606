"""Independent implementations of the published formulas of other tools, including their faults.

`precise_bn` follows fvcore's `update_bn_stats` (Apache-2.0): momentum 1, train mode, a hook that
reads the batch size, float32 population mean of x and of x². `reestimate` follows AIMET's
`reestimate_bn_stats`: momentum 1, train mode, unweighted averages of the buffers after each batch.
`update_bn` of torch is installed and used directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def train_mode_layers(model: nn.Module) -> list[_BatchNorm]:
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.training]


class _PopulationEstimator:
    """Estimator of fvcore: running float32 means of x and x², weighted by values per channel."""

    def __init__(self, like: torch.Tensor) -> None:
        self.mean, self.square_mean = torch.zeros_like(like), torch.zeros_like(like)
        self.total = 0

    def update(self, mean: torch.Tensor, var: torch.Tensor, count: int) -> None:
        self.total += count
        square_mean = mean.square() + var * ((count - 1) / count)
        self.mean += (mean - self.mean) * (count / self.total)
        self.square_mean += (square_mean - self.square_mean) * (count / self.total)

    @property
    def var(self) -> torch.Tensor:
        return self.square_mean - self.mean.square()


@torch.no_grad()
def precise_bn(model: nn.Module, loader: Iterable[torch.Tensor], num_iters: int) -> None:
    layers = train_mode_layers(model)
    momenta = [layer.momentum for layer in layers]
    counts: dict[_BatchNorm, int] = {}

    def count(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, _BatchNorm)
        counts[module] = args[0].numel() // args[0].shape[1]

    handles = [layer.register_forward_pre_hook(count) for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    estimators = [_PopulationEstimator(_mean(layer)) for layer in layers]
    seen = 0
    for batch in islice(loader, num_iters):
        seen += 1
        model(batch)
        for layer, estimator in zip(layers, estimators, strict=True):
            estimator.update(_mean(layer), _var(layer), counts[layer])
    # As in the original, momentum and hooks are restored only after this check.
    assert seen == num_iters, f"update_bn_stats is meant to run for {num_iters} iterations"
    for layer, estimator, momentum in zip(layers, estimators, momenta, strict=True):
        layer.running_mean, layer.running_var = estimator.mean, estimator.var
        layer.momentum = momentum
    for handle in handles:
        handle.remove()


@torch.no_grad()
def reestimate(model: nn.Module, loader: Sequence[torch.Tensor], num_batches: int) -> None:
    model.train()
    layers = train_mode_layers(model)
    momenta = [layer.momentum for layer in layers]
    means = [torch.zeros_like(_mean(layer)) for layer in layers]
    variances = [torch.zeros_like(_var(layer)) for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    num_batches = min(len(loader), num_batches)
    for batch in loader[:num_batches]:
        model(batch)
        for layer, mean, var in zip(layers, means, variances, strict=True):
            mean.add_(_mean(layer))
            var.add_(_var(layer))
    for layer, momentum, mean, var in zip(layers, momenta, means, variances, strict=True):
        layer.running_mean = mean / num_batches
        layer.running_var = var / num_batches
        layer.momentum = momentum


def moving_average(model: nn.Module, loader: Iterable[torch.Tensor], momentum: float) -> None:
    """Run in train mode with the given momentum; dropout is off, to compare only BatchNorm."""
    for module in model.modules():
        module.training = not isinstance(module, nn.Dropout | nn.Dropout2d)
        if isinstance(module, _BatchNorm):
            module.momentum = momentum
    with torch.no_grad():
        for batch in loader:
            model(batch)


def without_len(batches: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    yield from batches


def _mean(layer: _BatchNorm) -> torch.Tensor:
    assert layer.running_mean is not None
    return layer.running_mean


def _var(layer: _BatchNorm) -> torch.Tensor:
    assert layer.running_var is not None
    return layer.running_var
