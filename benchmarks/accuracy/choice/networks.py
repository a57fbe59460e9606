"""The networks of the study, and changes of their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy.choice.letters import CLASSES, draw_letters
from benchmarks.accuracy.data import read_fashion
from benchmarks.accuracy.digits import EPOCHS as DIGIT_EPOCHS
from benchmarks.accuracy.digits import TRAINING_DIGITS
from benchmarks.accuracy.fashion import EPOCHS, TRAINING_IMAGES
from benchmarks.accuracy.networks import trained
from examples.digits.data import LabeledImages, load_mnist, split
from examples.digits.train import MnistResNet
from tests.support import real_models

__all__ = [
    "CHANGES",
    "IMAGENET_NETWORKS",
    "changed",
    "digit_network",
    "fashion_network",
    "imagenet_network",
    "letter_network",
]

_WIDTHS = {1: 16, 2: 24}
"""Fashion-MNIST networks 1 and 2 and their width; number 0 is that of the other benchmarks."""

_LETTERS = 9_000
_FEWER_IMAGES, _FEWER_EPOCHS, _BATCH, _RATE = 24_000, 4, 128, 3e-3

_PACKAGES = "requirements-models.txt lists the packages of the trained networks"

IMAGENET_NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "MobileNetV2": real_models.mobilenet_v2,
    "EfficientNet-Lite0": real_models.efficientnet_lite0,
}


@cache
def digit_network(folder: Path, seed: int) -> nn.Module:
    """Return a network trained on 4,500 MNIST digits, from a cache folder."""
    digits, _ = split(load_mnist(), TRAINING_DIGITS)
    network = MnistResNet()
    network.load_state_dict(trained(folder, "digits", digits, seed=seed, epochs=DIGIT_EPOCHS))
    return network.eval()


@cache
def fashion_network(folder: Path, number: int, device: torch.device) -> nn.Module:
    """Return Fashion-MNIST network 0, 1 or 2, trained on the device or from a cache folder."""
    training = read_fashion("train")
    if number == 0:
        order = np.random.default_rng(0).permutation(len(training.labels))[:TRAINING_IMAGES]
        network = MnistResNet()
        network.load_state_dict(
            trained(folder, "fashion", training.take(order), seed=0, epochs=EPOCHS)
        )
        return network.eval()
    network = MnistResNet(_WIDTHS[number])
    path = folder / f"choice-fashion{number}.pt"
    if not path.exists():
        torch.manual_seed(10 + number)
        network = MnistResNet(_WIDTHS[number]).to(device)
        _train(network, training.take(np.arange(_FEWER_IMAGES)), device, seed=10 + number)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(network.cpu().state_dict(), path)
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network.eval()


@cache
def letter_network(folder: Path, seed: int, device: torch.device) -> nn.Module:
    """Return a network for capital letters, trained on the device or from a cache folder."""
    network = MnistResNet()
    network.head = nn.Linear(network.head.in_features, CLASSES)
    path = folder / f"choice-letters{seed}.pt"
    if not path.exists():
        torch.manual_seed(seed)
        network.head.reset_parameters()
        training = draw_letters("train", _LETTERS, seed=1_000 + seed)
        _train(network.to(device), training, device, seed=seed)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(network.cpu().state_dict(), path)
    network.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    return network.eval()


def _train(network: nn.Module, data: LabeledImages, device: torch.device, *, seed: int) -> None:
    """Train with Adam and a one-cycle learning rate."""
    images = torch.from_numpy(data.images).to(device)
    labels = torch.from_numpy(data.labels).to(device)
    steps = len(labels) // _BATCH
    optimizer = torch.optim.Adam(network.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, _RATE, total_steps=_FEWER_EPOCHS * steps
    )
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for _ in range(_FEWER_EPOCHS):
        order = torch.randperm(len(labels), generator=generator).to(device)
        for index in torch.split(order[: steps * _BATCH], _BATCH):
            loss = functional.cross_entropy(network(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


@cache
def imagenet_network(name: str) -> nn.Module:
    """Return an ImageNet classifier with the weights of its package, rounded to float16.

    Raises:
        FileNotFoundError: a package is not installed.
    """
    try:
        network = IMAGENET_NETWORKS[name]()
    except (PackageNotFoundError, ModuleNotFoundError) as error:
        raise FileNotFoundError(f"{name}: {error}; {_PACKAGES}") from error
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half())
    return network


def changed(network: nn.Module, change: str) -> nn.Module:
    """Return a copy with changed weights whose statistics are those of the unchanged ones.

    Args:
        network: the network.
        change: a key of `CHANGES`, or empty for a plain copy.
    """
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for module in copied.modules():
            if isinstance(module, nn.Conv2d) and change in CHANGES and change != "reset":
                module.weight.copy_(CHANGES[change](module.weight, module.groups))
            elif isinstance(module, nn.BatchNorm2d) and change == "reset":
                module.reset_running_stats()
    return copied


def _pruned(weight: Tensor, groups: int, share: float) -> Tensor:
    """Set the smallest weights to 0, except in depthwise convolutions."""
    if groups > 1:
        return weight
    size = weight.abs()
    limit = size.flatten().kthvalue(max(1, int(share * size.numel()))).values
    return torch.where(size < limit, 0.0, weight)


def _quantized(weight: Tensor, levels: int) -> Tensor:
    """Round to symmetric levels per output channel."""
    step = (weight.abs().amax((1, 2, 3), keepdim=True) / levels).clamp_min(1e-12)
    return (weight / step).round() * step


def _noisy(weight: Tensor) -> Tensor:
    """Add Gaussian noise of a fifth of the standard deviation of the weights."""
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return weight + 0.2 * weight.std() * noise


CHANGES: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "pruned-50": lambda weight, groups: _pruned(weight, groups, 0.5),
    "3-bit": lambda weight, _: _quantized(weight, 3),
    "4-bit": lambda weight, _: _quantized(weight, 7),
    "noise": lambda weight, _: _noisy(weight),
    "reset": lambda weight, _: weight,
    "pruned-30": lambda weight, groups: _pruned(weight, groups, 0.3),
}
"""New convolution weights from the old ones and the number of groups; `reset` resets statistics."""
