"""Small networks with BatchNorm whose operators change between opsets, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

CHANNELS, SIDE = 8, 6


class Network(nn.Module):
    """A convolution with BatchNorm, then one function."""

    def __init__(self, after: Callable[[Network, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.bn = nn.BatchNorm2d(CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)
        self.linear = nn.Linear(CHANNELS, 4)
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self, self.bn(self.conv(x)))


AFTER: Mapping[str, Callable[[Network, Tensor], Tensor]] = MappingProxyType(
    {
        "average pool": lambda _, x: F.avg_pool2d(x, 3, 2, 1),
        "chunk": lambda _, x: torch.cat(x.chunk(3, 1)[::-1], 1),
        "clip": lambda _, x: F.relu6(x),
        "expand": lambda _, x: x.mean((2, 3), keepdim=True).expand(-1, -1, 5, 7),
        "flatten and linear": lambda n, x: n.linear(F.adaptive_avg_pool2d(x, 1).flatten(1)),
        "gelu": lambda _, x: F.gelu(x),
        "gelu by tanh": lambda _, x: F.gelu(x, approximate="tanh"),
        "hard swish": lambda _, x: F.hardswish(x),
        "layer norm": lambda n, x: n.norm(x.permute(0, 2, 3, 1)),
        "log softmax": lambda _, x: F.log_softmax(x, 1),
        "pad": lambda _, x: F.pad(x, (1, 2, 1, 0), value=0.5),
        "reduce max": lambda _, x: x.amax((2, 3)),
        "reduce sum": lambda _, x: x.sum((1, 2)),
        "resize": lambda _, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        "resize to a size": lambda _, x: F.interpolate(
            x, size=(7, 9), mode="bilinear", align_corners=True
        ),
        "shuffle channels": lambda _, x: (
            x.reshape(x.shape[0], 2, 4, *x.shape[2:]).transpose(1, 2).reshape(x.shape)
        ),
        "softmax over channels": lambda _, x: F.softmax(x, 1),
        "softmax over the last axis": lambda _, x: F.softmax(x, -1),
        "split": lambda _, x: torch.cat(torch.split(x, [3, 5], 1)[::-1], 1),
        "squeeze": lambda n, x: n.linear(x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1)),
        "unsqueeze": lambda _, x: x.mean(1).unsqueeze(1),
    }
)


def network(name: str) -> Network:
    """Return a network in eval mode with weights and statistics that are not trivial."""
    torch.manual_seed(0)
    made = Network(AFTER[name]).eval()
    with torch.no_grad():
        made.bn.running_mean = torch.randn(CHANNELS) * 0.3
        made.bn.running_var = torch.rand(CHANNELS) + 0.5
        made.bn.weight.uniform_(0.5, 1.5)
        made.bn.bias.uniform_(-0.5, 0.5)
    return made
