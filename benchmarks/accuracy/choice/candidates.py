"""Candidate statistics between source and target, measured in one forward pass each.

`MixedNorm` replaces BatchNorm. It measures the stream, which is the first part of the batch,
mixes its moments with the stored ones and normalizes the whole batch with the result. One pass thus
updates every layer on what the updated layers before it give, for any share per layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.accuracy.choice.rows import PROBE, SOURCE, Measured

__all__ = ["SHARES", "Mixed", "measure", "mixed", "shares"]

SHARES: Mapping[str, tuple[int | None, float]] = {
    SOURCE: (None, 0.0),
    **{f"share-{w:g}": (None, w) for w in (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)},
    **{f"third-{w:g}": (3, w) for w in (0.0, 0.02, 0.1, 0.3)},
    **{f"half-{w:g}": (2, w) for w in (0.02, 0.1, 0.5)},
}
"""Per candidate: d, where the first L/d of L layers get the target, and the share behind them.

`None` gives every layer the share.
"""

# A stored variance below the first, or a measured one below the second, is rounding noise: the
# channel keeps its stored statistics.
_STORED_NOISE, _MEASURED_NOISE = 1e-10, 1e-12

_TINY = 1e-12  # keeps logarithms of probabilities finite


@dataclass(slots=True)
class _Mixing:
    """What the layers of a network do in the next pass.

    Attributes:
        samples: number of stream samples at the beginning of the batch.
        shares: share of the target per layer.
    """

    samples: int = 0
    shares: Sequence[float] = field(default_factory=tuple)


class MixedNorm(nn.Module):
    """BatchNorm with stored statistics, moved to those of the stream by a share."""

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.BatchNorm2d, index: int, mixing: _Mixing) -> None:
        super().__init__()
        self._index, self._mixing, self._eps = index, mixing, layer.eps
        stored = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
        for name, value in zip(("mean", "var", "weight", "bias"), stored, strict=True):
            assert value is not None
            self.register_buffer(name, value.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W)."""
        mean, var = self._statistics(x)
        scale = self.weight / (var + self._eps).sqrt()
        shift = self.bias - scale * mean
        return x * scale[:, None, None] + shift[:, None, None]

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        share = self._mixing.shares[self._index]
        if share == 0:
            return self.mean, self.var
        stream = x[: self._mixing.samples]
        var, mean = torch.var_mean(stream, dim=(0, 2, 3), correction=0)
        live = (self.var > _STORED_NOISE) & (var > _MEASURED_NOISE)
        move = mean - self.mean
        between = share * (1 - share) * move * move
        return (
            torch.where(live, self.mean + share * move, self.mean),
            torch.where(live, (1 - share) * self.var + share * var + between, self.var),
        )


@dataclass(frozen=True, slots=True)
class Mixed:
    """A network whose BatchNorm layers are `MixedNorm`.

    Attributes:
        module: the network, in eval mode.
        layers: number of BatchNorm layers.
        classes: number of classes.
    """

    module: nn.Module
    layers: int
    classes: int
    _mixing: _Mixing

    @torch.inference_mode()
    def probabilities(self, images: Tensor, samples: int, share: Sequence[float]) -> Tensor:
        """Return class probabilities (N, K) in float64.

        Args:
            images: the stream, followed by other images.
            samples: size of the stream.
            share: share of the target per layer, in order of execution.
        """
        self._mixing.samples, self._mixing.shares = samples, share
        return torch.softmax(self.module(images).double(), 1)


def mixed(network: nn.Module, device: torch.device) -> Mixed:
    """Return a copy of a network, with layers in order of execution, on a device."""
    module, mixing = copy.deepcopy(network).eval(), _Mixing()
    names = [name for name, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for index, name in enumerate(names):
        parent, _, leaf = name.rpartition(".")
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.BatchNorm2d)
        setattr(module.get_submodule(parent), leaf, MixedNorm(layer, index, mixing))
    head = [m for m in module.modules() if isinstance(m, nn.Linear)][-1]
    return Mixed(module.to(device), len(names), head.out_features, mixing)


def shares(candidate: str, layers: int) -> list[float]:
    """Return the share of the target per layer, in order of execution."""
    part, share = SHARES[candidate]
    whole = 0 if part is None else math.ceil(layers / part)
    return [1.0] * whole + [share] * (layers - whole)


def measure(
    network: Mixed,
    stream: Tensor,
    test: Tensor,
    labels: NDArray[np.int64],
    *,
    names: Iterable[str] = SHARES,
) -> dict[str, Measured]:
    """Return the measurement of every candidate on one stream.

    Args:
        network: the network.
        stream: preprocessed images (n, C, H, W) that give the target statistics.
        test: preprocessed images, disjoint from the stream, that measure the accuracy.
        labels: their classes.
        names: candidates to measure, the source among them.
    """
    images, n = torch.cat([stream, test]), len(stream)
    probe = min(n, PROBE)
    found: dict[str, _Predictions] = {}
    correct: dict[str, int] = {}
    for name in names:
        p = network.probabilities(images, n, shares(name, network.layers))
        found[name] = _Predictions.of(p[:probe].cpu().numpy())
        correct[name] = int((p[n:].argmax(1).cpu().numpy() == labels).sum())
    source = found[SOURCE]
    return {name: _measured(source, each, correct[name]) for name, each in found.items()}


@dataclass(frozen=True, slots=True)
class _Predictions:
    """The criterion of a candidate on the probe.

    Attributes:
        criterion: J of each sample, KL(p, mean p) - H(p) / 2, shape (n,), nats.
        entropy: mean entropy of a prediction, nats.
        divergence: mean divergence from the mean prediction, nats.
        classes: K.
    """

    criterion: NDArray[np.float64]
    entropy: float
    divergence: float
    classes: int

    @classmethod
    def of(cls, p: NDArray[np.float64]) -> _Predictions:
        """Summarize probabilities (n, K)."""
        logs = np.log(np.maximum(p, _TINY))
        entropy = -(p * logs).sum(1)
        divergence = (p * (logs - np.log(np.maximum(p.mean(0), _TINY)))).sum(1)
        return cls(
            divergence - entropy / 2, float(entropy.mean()), float(divergence.mean()), p.shape[1]
        )


def _gain(before: _Predictions, after: _Predictions) -> tuple[float, float]:
    """Return the gain and its paired standard error, in units of ln min(n, K)."""
    n = len(before.criterion)
    unit = math.log(max(2, min(n, before.classes)))
    change = (after.criterion - before.criterion) / unit
    error = float(change.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    return float(change.mean()), error


def _measured(source: _Predictions, after: _Predictions, correct: int) -> Measured:
    gain, error = (0.0, 0.0) if after is source else _gain(source, after)
    return Measured(
        correct=correct,
        gain=gain,
        gain_error=error,
        entropy_rise=(after.entropy - source.entropy) / math.log(source.classes),
        distinct_classes=math.exp(after.divergence),
    )
