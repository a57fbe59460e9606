"""Building blocks of the zoo that define `forward`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

EPS = 1e-5


def conv_bn(c_in: int, c_out: int, kernel: int = 3, **options: Any) -> nn.Sequential:
    options.setdefault("padding", kernel // 2)
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel, bias=False, **options), nn.BatchNorm2d(c_out), nn.ReLU()
    )


def head(channels: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Residual(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: torch.Tensor) -> Any:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class PreActivation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv1(functional.relu(self.bn1(x)))
        return x + self.conv2(functional.relu(self.bn2(y)))


class Dense(nn.Module):
    """DenseNet: every layer normalizes the outputs of all previous layers."""

    def __init__(self, channels: int = 4, growth: int = 3, depth: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(channels + i * growth),
                nn.ReLU(),
                nn.Conv2d(channels + i * growth, growth, 3, padding=1, bias=False),
            )
            for i in range(depth)
        )

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class InvertedResidual(nn.Module):
    def __init__(self, channels: int, expand: int = 3) -> None:
        super().__init__()
        hidden = channels * expand
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> Any:
        return x + self.body(x)


class Branches(nn.Module):
    """Inception: branches of different depth, concatenated along the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = conv_bn(channels, 3, 1)
        self.three = nn.Sequential(conv_bn(channels, 3, 1), conv_bn(3, 4))
        self.five = nn.Sequential(conv_bn(channels, 2, 1), conv_bn(2, 3), conv_bn(3, 3))
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(channels, 2, 1))

    def forward(self, x: torch.Tensor) -> Any:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=1)


class ShuffleUnit(nn.Module):
    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            conv_bn(half, half, 1),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            conv_bn(half, half, 1),
        )

    def forward(self, x: torch.Tensor) -> Any:
        kept, changed = x.chunk(2, dim=1)
        y = torch.cat([kept, self.branch(changed)], dim=1)
        n, c, height, width = y.shape
        return y.view(n, 2, c // 2, height, width).transpose(1, 2).reshape(n, c, height, width)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, act: type[nn.Module] = nn.SiLU) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), act()
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, 2, 1),
            nn.ReLU(),
            nn.Conv2d(2, channels, 1),
            nn.Sigmoid(),
        )
        self.project = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: torch.Tensor) -> Any:
        y = self.body(x)
        return x + self.project(y * self.gate(y))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = conv_bn(2, 4), conv_bn(4, 6, stride=2)
        self.bottom = conv_bn(6, 8, stride=2)
        self.up2 = nn.ConvTranspose2d(8, 6, 2, 2)
        self.up2_bn = nn.BatchNorm2d(6)
        self.mid = conv_bn(12, 6)
        self.up1 = nn.ConvTranspose2d(6, 4, 2, 2, bias=False)
        self.up1_bn = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        first = self.down1(x)
        second = self.down2(first)
        y = functional.relu(self.up2_bn(self.up2(self.bottom(second))))
        y = self.mid(torch.cat([y, second], dim=1))
        y = functional.relu(self.up1_bn(self.up1(y)))
        return self.last(torch.cat([y, first], dim=1))


class Gated(nn.Module):
    """WaveNet: dilated convolutions, a tanh branch gated by a sigmoid one."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        options: dict[str, Any] = {"padding": dilation, "dilation": dilation}
        self.filter = nn.Conv1d(channels, channels, 3, **options)
        self.gate = nn.Conv1d(channels, channels, 3, **options)
        self.filter_bn, self.gate_bn = nn.BatchNorm1d(channels), nn.BatchNorm1d(channels)

    def forward(self, x: torch.Tensor) -> Any:
        opened = torch.sigmoid(self.gate_bn(self.gate(x)))
        return x + torch.tanh(self.filter_bn(self.filter(x))) * opened


class SharedNorm(nn.Module):
    """One BatchNorm called after each of two convolutions in sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.last = conv_bn(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        y = functional.relu(self.bn(self.conv1(x)))
        return self.last(functional.relu(self.bn(self.conv2(y))))


class Siamese(nn.Module):
    """One encoder for two inputs: each of its BatchNorms is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv_bn(2, 4), conv_bn(4, 4), nn.AdaptiveAvgPool2d(1))
        self.last = nn.Linear(8, 3)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> Any:
        both = [self.encoder(left).flatten(1), self.encoder(right).flatten(1)]
        return self.last(torch.cat(both, dim=1))


class TwoTowers(nn.Module):
    """Separate towers for an image and a vector, which have different ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.image_tower = nn.Sequential(conv_bn(2, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.table_tower = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.join = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, image: torch.Tensor, table: torch.Tensor) -> Any:
        return self.join(torch.cat([self.image_tower(image), self.table_tower(table)], dim=1))


class NamedOutputs(nn.Module):
    """Detection: several named outputs from different depths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = conv_bn(2, 4), conv_bn(4, 5, stride=2)
        self.boxes = nn.Conv2d(5, 4, 1)
        self.scores = nn.Sequential(nn.Conv2d(4, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Sigmoid())

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        shallow = self.stem(image)
        return {"boxes": self.boxes(self.deep(shallow)), "scores": self.scores(shallow)}


class Pyramid(nn.Module):
    """ASPP: dilated branches and a globally pooled one, whose BatchNorm has one position."""

    def __init__(self) -> None:
        super().__init__()
        self.near = conv_bn(2, 3, 1)
        self.wide = conv_bn(2, 3, 3, padding=2, dilation=2)
        self.everywhere = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv_bn(2, 3, 1))
        self.project = conv_bn(9, 4, 1)

    def forward(self, x: torch.Tensor) -> Any:
        pooled = self.everywhere(x).expand(-1, -1, *x.shape[2:])
        return self.project(torch.cat([self.near(x), self.wide(x), pooled], dim=1))


class Attention(nn.Module):
    """A transformer block with BatchNorm over (N, C, tokens) instead of LayerNorm."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 4, 4)
        self.bn1, self.bn2 = nn.BatchNorm1d(width), nn.BatchNorm1d(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> Any:
        tokens = self.stem(x).flatten(2)
        q, k, v = self.qkv(self.bn1(tokens).transpose(1, 2)).chunk(3, dim=-1)
        weights = torch.softmax(q @ k.transpose(1, 2) / 2.0, dim=-1)
        tokens = tokens + (weights @ v).transpose(1, 2)
        return tokens + self.mlp(self.bn2(tokens).transpose(1, 2)).transpose(1, 2)


class RepVGG(nn.Module):
    """The sum of three parallel branches, one of which is only a BatchNorm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.three = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.one = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn3, self.bn1 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.bn0 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> Any:
        return functional.relu(self.bn3(self.three(x)) + self.bn1(self.one(x)) + self.bn0(x))


class TwoReaders(nn.Module):
    """One convolution whose output is the input of two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.left, self.right = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        return functional.relu(self.left(y)) - functional.relu(self.right(y))


class FrozenBatchNorm2d(nn.Module):
    """The frozen BatchNorm of detection libraries: buffers and explicit arithmetic."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0)):
            self.register_buffer(name, torch.full((channels,), value))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: torch.Tensor) -> Any:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class BatchNormAct2d(nn.BatchNorm2d):
    """A subclass that includes the activation and calls the functional form itself."""

    def forward(self, x: torch.Tensor) -> Any:
        y = functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )
        return functional.leaky_relu(y, 0.1)


class Recurrent(nn.Module):
    """Speech: convolutions, a recurrent layer, and BatchNorm over its output sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(3, 5, 3, padding=1), nn.BatchNorm1d(5), nn.ReLU())
        self.recurrent = nn.GRU(5, 4, batch_first=True)
        self.bn = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> Any:
        sequence, _ = self.recurrent(self.stem(x).transpose(1, 2))
        return self.bn(sequence.transpose(1, 2))


class Tokens(nn.Module):
    """Integer inputs: an embedding followed by BatchNorm over its features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.body = nn.Sequential(nn.BatchNorm1d(6), nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4))

    def forward(self, words: torch.Tensor) -> Any:
        return self.body(self.embed(words).transpose(1, 2)).mean(2)


class PartialStage(nn.Module):
    """CSP: half of the channels bypass the stage."""

    def __init__(self, channels: int = 6) -> None:
        super().__init__()
        half = channels // 2
        self.long = nn.Sequential(conv_bn(half, half), conv_bn(half, half))
        self.join = conv_bn(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> Any:
        short, long = torch.split(x, x.shape[1] // 2, dim=1)
        return self.join(torch.cat([short, self.long(long)], dim=1))


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
            nn.PixelShuffle(2),
            nn.BatchNorm2d(2),
        )

    def forward(self, x: torch.Tensor) -> Any:
        wide = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        return wide + self.body(x)
