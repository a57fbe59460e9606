"""The networks of the speed benchmarks, built as in the papers, with seeded random weights.

The layouts follow torchvision, which is not a dependency, so the layer and parameter counts are the
familiar ones (53 BatchNorm layers in ResNet-50, 20 in ResNet-18, 52 in MobileNetV2, 121 in
DenseNet-121, 49 in EfficientNet-B0).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["NETWORKS", "build"]


def conv_bn(
    c_in: int, c_out: int, k: int = 1, *, stride: int = 1, groups: int = 1, act: nn.Module | None
) -> nn.Sequential:
    """Build a convolution, a BatchNorm and an optional activation."""
    conv = nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), *([] if act is None else [act]))


class Residual(nn.Module):
    """He et al. 2016, figure 5: `branch(x) + shortcut(x)`, then ReLU."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut, self.relu = branch, shortcut, nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return y


def _basic(c_in: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv_bn(c_in, width, 3, stride=stride, act=nn.ReLU(inplace=True)),
        conv_bn(width, width, 3, act=None),
    )


def _bottleneck(c_in: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        conv_bn(c_in, width, act=nn.ReLU(inplace=True)),
        conv_bn(width, width, 3, stride=stride, act=nn.ReLU(inplace=True)),
        conv_bn(width, 4 * width, act=None),
    )


def _resnet(
    block: Callable[[int, int, int], nn.Sequential], depths: list[int], expansion: int
) -> nn.Module:
    layers: list[nn.Module] = [
        conv_bn(3, 64, 7, stride=2, act=nn.ReLU(inplace=True)),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for stage, depth in enumerate(depths):
        width = 64 << stage
        for index in range(depth):
            stride = 2 if stage and not index else 1
            same = stride == 1 and channels == width * expansion
            shortcut: nn.Module = (
                nn.Identity()
                if same
                else conv_bn(channels, width * expansion, stride=stride, act=None)
            )
            layers.append(Residual(block(channels, width, stride), shortcut))
            channels = width * expansion
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


def resnet18() -> nn.Module:
    """He et al. 2016, table 1, 18 layers."""
    return _resnet(_basic, [2, 2, 2, 2], 1)


def resnet50() -> nn.Module:
    """He et al. 2016, table 1, 50 layers (stride in the 3x3 convolution, as in torchvision)."""
    return _resnet(_bottleneck, [3, 4, 6, 3], 4)


class Gate(nn.Module):
    """Squeeze and excitation (Hu et al. 2018, section 3)."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.SiLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel."""
        gated: Tensor = x * self.gate(x)
        return gated


class Inverted(nn.Module):
    """Inverted residual (Sandler et al. 2018, table 1), with an optional gate."""

    def __init__(
        self, c_in: int, c_out: int, *, expand: int, k: int, stride: int, act: type, gate: bool
    ) -> None:
        super().__init__()
        hidden = c_in * expand
        parts: list[nn.Module] = []
        if expand != 1:
            parts.append(conv_bn(c_in, hidden, act=act()))
        parts.append(conv_bn(hidden, hidden, k, stride=stride, groups=hidden, act=act()))
        if gate:
            parts.append(Gate(hidden, max(1, c_in // 4)))
        parts.append(conv_bn(hidden, c_out, act=None))
        self.branch = nn.Sequential(*parts)
        self.same = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y: Tensor = self.branch(x)
        return x + y if self.same else y


def _inverted_net(
    rows: list[tuple[int, int, int, int, int]], stem: int, head: int, act: type, *, gate: bool
) -> nn.Module:
    layers: list[nn.Module] = [conv_bn(3, stem, 3, stride=2, act=act())]
    channels = stem
    for expand, width, repeats, stride, k in rows:
        for index in range(repeats):
            layers.append(
                Inverted(
                    channels,
                    width,
                    expand=expand,
                    k=k,
                    stride=1 if index else stride,
                    act=act,
                    gate=gate,
                )
            )
            channels = width
    layers.append(conv_bn(channels, head, act=act()))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(head, 1000))


def mobilenet_v2() -> nn.Module:
    """Sandler et al. 2018, table 2."""
    rows = [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 32, 3, 2, 3),
        (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3),
        (6, 160, 3, 2, 3),
        (6, 320, 1, 1, 3),
    ]
    return _inverted_net(rows, 32, 1280, nn.ReLU6, gate=False)


def efficientnet_b0() -> nn.Module:
    """Tan & Le 2019, table 1."""
    rows = [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]
    return _inverted_net(rows, 32, 1280, nn.SiLU, gate=True)


class DenseLayer(nn.Module):
    """Huang et al. 2017, section 3: BN, ReLU, 1x1, BN, ReLU, 3x3, concatenated to the input."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(c_in),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_in, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer."""
        return torch.cat([x, self.body(x)], 1)


def densenet121() -> nn.Module:
    """Huang et al. 2017, table 1, growth 32."""
    layers: list[nn.Module] = [
        conv_bn(3, 64, 7, stride=2, act=nn.ReLU(inplace=True)),
        nn.MaxPool2d(3, 2, 1),
    ]
    channels = 64
    for block, depth in enumerate([6, 12, 24, 16]):
        for _ in range(depth):
            layers.append(DenseLayer(channels, 32))
            channels += 32
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        if block < 3:
            layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": resnet50,
    "resnet18": resnet18,
    "mobilenet_v2": mobilenet_v2,
    "densenet121": densenet121,
    "efficientnet_b0": efficientnet_b0,
}


def build(name: str) -> nn.Module:
    """Build a network in eval mode. He initialization keeps the activations in range."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network.eval()
