"""ResNet-50, MobileNetV2 and DenseNet-121 with random weights and unfolded BatchNormalization."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.conformance.fold.building import Graph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx

__all__ = ["NETWORKS"]

IMAGE = ("N", 3, 224, 224)
CLASSES = 1000


class _Network(Graph):
    """A graph builder that counts its layers."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.layers = 0

    def block(
        self, x: str, into: int, out: int, kernel: int, stride: int = 1, *, groups: int = 1
    ) -> str:
        pad = kernel // 2
        fan_in = into // groups * kernel * kernel
        weight = self.store(np.sqrt(2.0 / fan_in) * self.array(out, into // groups, kernel, kernel))
        return self.conv(
            x,
            (into, out),
            bias=False,
            weight=weight,
            groups=groups,
            pads=[pad] * 4,
            strides=[stride, stride],
        )

    def normalized(self, x: str, channels: int) -> str:
        self.layers += 1
        return self.bn(x, channels, f"bn{self.layers}", positive=True, eps=1e-5)

    def finish(self, x: str, channels: int) -> onnx.ModelProto:
        x = self.add("Flatten", self.add("GlobalAveragePool", x))
        weight = self.store(self.array(CLASSES, channels) / np.sqrt(channels))
        bias = self.store(np.zeros(CLASSES))
        self.output(self.add("Gemm", x, weight, bias, transB=1), ("N", CLASSES))
        return self.model()


def resnet50() -> onnx.ModelProto:
    net = _Network("resnet50")
    x = net.add("Relu", net.normalized(net.block(net.input("x", IMAGE), 3, 64, 7, 2), 64))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    into = 64
    for width, count, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            stride, out = first if index == 0 else 1, 4 * width
            y = net.add("Relu", net.normalized(net.block(x, into, width, 1), width))
            y = net.add("Relu", net.normalized(net.block(y, width, width, 3, stride), width))
            y = net.normalized(net.block(y, width, out, 1), out)
            if index == 0:
                x = net.normalized(net.block(x, into, out, 1, stride), out)
            x, into = net.add("Relu", net.add("Add", y, x)), out
    return net.finish(x, into)


def mobilenet_v2() -> onnx.ModelProto:
    net = _Network("mobilenet_v2")
    low, high = net.store(np.array(0.0)), net.store(np.array(6.0))

    def active(x: str, channels: int) -> str:
        return net.add("Clip", net.normalized(x, channels), low, high)

    x, into = active(net.block(net.input("x", IMAGE), 3, 32, 3, 2), 32), 32
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    for expand, out, count, first in (*plan, (6, 160, 3, 2), (6, 320, 1, 1)):
        for index in range(count):
            stride, wide = first if index == 0 else 1, into * expand
            y = x if expand == 1 else active(net.block(x, into, wide, 1), wide)
            y = active(net.block(y, wide, wide, 3, stride, groups=wide), wide)
            y = net.normalized(net.block(y, wide, out, 1), out)
            x = net.add("Add", x, y) if stride == 1 and into == out else y
            into = out
    return net.finish(active(net.block(x, into, 1280, 1), 1280), 1280)


def densenet121() -> onnx.ModelProto:
    net = _Network("densenet121")
    x = net.add("Relu", net.normalized(net.block(net.input("x", IMAGE), 3, 64, 7, 2), 64))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            y = net.add("Relu", net.normalized(x, channels))
            y = net.add("Relu", net.normalized(net.block(y, channels, 128, 1), 128))
            x = net.add("Concat", x, net.block(y, 128, 32, 3), axis=1)
            channels += 32
        if stage < 3:
            x = net.block(net.add("Relu", net.normalized(x, channels)), channels, channels // 2, 1)
            x = net.add("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            channels //= 2
    return net.finish(net.add("Relu", net.normalized(x, channels)), channels)


NETWORKS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "ResNet-50": resnet50,
    "MobileNetV2": mobilenet_v2,
    "DenseNet-121": densenet121,
}
