"""The compared methods: new running statistics from a network and a stream.

`exact_statistics` runs one forward pass over the stream as a single batch and updates each layer as
it is reached, as the engines of `bn_ops` do for any split of the stream (a unit test compares the
two). The two batch methods are formulas of other tools over train-mode passes:

* `torch.optim.swa_utils.update_bn`: the unweighted mean over batches of the batch means and of the
  unbiased batch variances; a smaller last batch has the weight of a full one.
* PreciseBN (fvcore `update_bn_stats`): the same for means; the variance is pooled over batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bn_ops.core.estimators import Estimator
from bn_ops.core.frontier import update_layer
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moments import measure
from bn_ops.core.statistics import RunningStatistics
from examples.digits.train import MnistResNet

__all__ = [
    "Images",
    "batch_statistics",
    "error_percent",
    "exact_statistics",
    "folded",
    "predictions",
    "source_statistics",
    "store",
]

Statistics = Mapping[str, RunningStatistics]
Images = NDArray[np.float32]

_EVALUATION_BATCH = 100


def layers_of(network: nn.Module) -> dict[str, nn.BatchNorm2d]:
    """Return every BatchNorm layer by name."""
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d)}


def source_statistics(network: nn.Module) -> Statistics:
    """Return the statistics stored in the network."""
    return {name: _stored(layer) for name, layer in layers_of(network).items()}


def _stored(layer: nn.BatchNorm2d) -> RunningStatistics:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return RunningStatistics(
        mean=layer.running_mean.double().numpy().copy(),
        var=layer.running_var.double().numpy().copy(),
    )


def store(network: nn.Module, statistics: Statistics) -> None:
    """Write statistics into the network."""
    for name, layer in layers_of(network).items():
        _write(layer, statistics[name])


def _write(layer: nn.BatchNorm2d, statistics: RunningStatistics) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(torch.from_numpy(statistics.mean))
    layer.running_var.copy_(torch.from_numpy(statistics.var))


@torch.no_grad()
def exact_statistics(network: nn.Module, images: Images, estimator: Estimator) -> Statistics:
    """Update each layer from the whole stream, in order of execution. Modifies the network."""
    settled: dict[str, RunningStatistics] = {}

    def arrived(name: str, layer: nn.BatchNorm2d, x: Tensor) -> None:
        info = LayerInfo(
            name=name,
            channels=layer.num_features,
            eps=layer.eps,
            affine=True,
            statistics=_stored(layer),
            input_rank=x.ndim,
            reason=None,
        )
        settled[name] = update_layer(info, measure(x.contiguous().numpy()), estimator).statistics
        _write(layer, settled[name])

    _observe(network, images, arrived)
    return settled


@torch.no_grad()
def batch_statistics(network: nn.Module, images: Images, size: int) -> dict[str, Statistics]:
    """Return both batch formulas from one train-mode pass over batches of `size`."""
    seen: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64], int]]] = {}

    def arrived(name: str, layer: nn.BatchNorm2d, x: Tensor) -> None:
        moments = measure(x.contiguous().numpy())
        seen.setdefault(name, []).append((moments.mean, moments.var_population, moments.count))
        # Train-mode normalization uses the statistics of the batch.
        _write(layer, RunningStatistics(mean=moments.mean, var=moments.var_population))

    for start in range(0, len(images), size):
        _observe(network, images[start : start + size], arrived)
    return {
        "update_bn": {name: _update_bn(parts) for name, parts in seen.items()},
        "PreciseBN": {name: _precise_bn(parts) for name, parts in seen.items()},
    }


def _update_bn(
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64], int]],
) -> RunningStatistics:
    unbiased = [var * count / (count - 1) for _, var, count in parts]
    return RunningStatistics(
        mean=np.mean([mean for mean, _, _ in parts], axis=0), var=np.mean(unbiased, axis=0)
    )


def _precise_bn(
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64], int]],
) -> RunningStatistics:
    mean = np.mean([mean for mean, _, _ in parts], axis=0)
    square = np.mean([var + mean**2 for mean, var, _ in parts], axis=0)
    return RunningStatistics(mean=mean, var=square - mean**2)


def _observe(
    network: nn.Module, images: Images, arrived: Callable[[str, nn.BatchNorm2d, Tensor], None]
) -> None:
    handles = [
        layer.register_forward_pre_hook(
            lambda module, args, name=name: arrived(name, module, args[0])
        )
        for name, layer in layers_of(network).items()
    ]
    try:
        network(_tensor(images))
    finally:
        for handle in handles:
            handle.remove()


def _tensor(images: Images) -> Tensor:
    # Contiguous copies: a single-channel image has both layouts, and torch picks the slow one.
    return torch.from_numpy(np.ascontiguousarray(images)).to(memory_format=torch.channels_last)


@torch.no_grad()
def predictions(network: nn.Module, images: Images) -> NDArray[np.float64]:
    """Return class probabilities, shape (n, classes)."""
    parts = torch.split(_tensor(images), _EVALUATION_BATCH)
    return np.concatenate([network(part).softmax(1).double().numpy() for part in parts])


def error_percent(network: MnistResNet, images: Images, labels: NDArray[np.int64]) -> float:
    """Return the classification error in percent."""
    return float(100 * np.mean(predictions(folded(network), images).argmax(1) != labels))


def folded(network: MnistResNet) -> MnistResNet:
    """Return a copy with BatchNorm folded into the convolutions: same errors, less time."""
    quick = copy.deepcopy(network)
    quick.conv, quick.bn = _pair(quick.conv, quick.bn)
    for block in (quick.block1, quick.block2, quick.block3):
        block.conv1, block.bn1 = _pair(block.conv1, block.bn1)
        block.conv2, block.bn2 = _pair(block.conv2, block.bn2)
        if isinstance(block.shortcut, nn.Sequential):
            block.shortcut, _ = _pair(block.shortcut[0], block.shortcut[1])
    return quick


def _pair(conv: nn.Module, norm: nn.Module) -> Any:
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv, norm), nn.Identity()
