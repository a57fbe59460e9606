"""Operators between weights and layer that the affine map of the layer may pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.fold.building import Cases, Graph

CASES = Cases()
case = CASES.case

IMAGE = ("N", 4, 9, 9)
ONE = (1, 1)


@case("identity", {"bn": "folded:identity/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.add("Identity", g.conv(x, (4, 5))), 5))


@case("dropout outside training, opset 10", {"bn": "folded:identity/conv"}, nodes=2, opset=10)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.add("Dropout", g.conv(x, (4, 5)), ratio=0.5), 5))


@case("dropout outside training, opset 17", {"bn": "folded:identity/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    ratio, training = g.store(np.array(0.5)), g.store(np.zeros((), dtype=np.bool_))
    g.output(g.bn(g.add("Dropout", g.conv(x, (4, 5)), ratio, training), 5))


@case("dropout in training", {"bn": "may be in training mode"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    ratio, training = g.store(np.array(0.0)), g.store(np.ones((), dtype=np.bool_))
    g.output(g.bn(g.add("Dropout", g.conv(x, (4, 5)), ratio, training), 5))


@case("dropout switched by an input", {"bn": "may be in training mode"})
def _(g: Graph) -> None:
    x, training = g.input("x", IMAGE), g.input("training", (), "bool")
    ratio = g.store(np.array(0.0))
    g.output(g.bn(g.add("Dropout", g.conv(x, (4, 5)), ratio, training), 5))


@case("average pool without padding", {"bn": "folded:pool/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("AveragePool", g.conv(x, (4, 5)), kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    g.output(g.bn(y, 5))


@case("average pool that excludes padding", {"bn": "folded:pool/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("AveragePool", g.conv(x, (4, 5)), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    g.output(g.bn(y, 5))


@case("average pool that counts padding", {"bn": "includes padding in averages"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    attrs: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    g.output(g.bn(g.add("AveragePool", g.conv(x, (4, 5)), **attrs), 5))


@case("average pool that counts padding, no shift", {"bn": "folded:pool/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    attrs: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}
    y = g.add("AveragePool", g.conv(x, (4, 5), bias=False), **attrs)
    g.output(g.bn(y, 5, shift=False))


@case("max pool, positive scales", {"bn": "folded:pool/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("MaxPool", g.conv(x, (4, 5)), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    g.output(g.bn(y, 5, positive=True))


@case("max pool, scales of both signs", {"bn": "would reverse the maximum"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("MaxPool", g.conv(x, (4, 8)), kernel_shape=[3, 3])
    g.output(g.bn(y, 8))


@case("max pool with indices", {"bn": "indices of its maxima"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("MaxPool", g.conv(x, (4, 5)), kernel_shape=[3, 3], more_outputs=["where"])
    g.output(g.bn(y, 5, positive=True))
    g.output("where", dtype="int64")


@case("global pool and flatten", {"bn": "folded:reshape/pool/conv"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Flatten", g.add("GlobalAveragePool", g.conv(x, (4, 5))))
    g.output(g.bn(y, 5))


@case("mean over positions", {"bn": "folded:reduce-mean/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.add("ReduceMean", g.conv(x, (4, 5)), axes=[-1, 2], keepdims=0), 5))


@case("mean over positions, opset 18", {"bn": "folded:reduce-mean/conv"}, nodes=2, opset=18)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.add("ReduceMean", g.conv(x, (4, 5)), g.ints(2, 3)), 5))


@case("mean over channels", {"bn": "are not along"})
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 8, 9))
    g.output(g.bn(g.add("ReduceMean", g.conv(x, (4, 5)), axes=[1], keepdims=0), 6))


@case("mean over samples that moves the channel axis", {"bn": "are not along"})
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 7, 9))
    g.output(g.bn(g.add("ReduceMean", g.conv(x, (4, 5)), axes=[0], keepdims=0), 5))


@case("layer, global pool, flatten, gemm", {"bn": "folded:pool/reshape/next-gemm"}, nodes=4)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("GlobalAveragePool", g.bn(g.add("Relu", x), 4))
    g.output(g.add("Gemm", g.add("Flatten", y), g.store(g.array(4, 5)), g.store(g.array(5))))


@case("layer, flatten, gemm", {"bn": "folded:reshape/next-gemm"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 3, 3))
    y = g.add("Flatten", g.bn(x, 4))
    g.output(g.add("Gemm", y, g.store(g.array(36, 5)), g.store(g.array(5))))


@case("layer, constant reshape, matmul", {"bn": "folded:reshape/next-matmul"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 3, 3))
    y = g.add("Reshape", g.bn(x, 4), g.ints(-1, 36))
    g.output(g.add("MatMul", y, g.store(g.array(36, 5))))


@case("layer, computed reshape, gemm", {"bn": "folded:reshape/next-gemm"})
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 3, 3))
    y = g.bn(x, 4)
    size = g.add("Gather", g.add("Shape", x), g.store(np.array(0)), axis=0)
    shape = g.add("Concat", g.add("Unsqueeze", size, g.ints(0)), g.ints(-1), axis=0)
    y = g.add("Reshape", y, shape)
    g.output(g.add("Gemm", y, g.store(g.array(36, 5)), g.store(g.array(5))))


@case("flatten of a single position", {"bn": "folded:reshape/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 3, 3))
    g.output(g.bn(g.add("Flatten", g.conv(x, (4, 5))), 5))


@case("flatten of many positions", {"bn": "does not provably keep"})
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 4, 4))
    g.output(g.bn(g.add("Flatten", g.conv(x, (4, 5))), 20))


@case("gemm reshaped to an image", {"bn": "folded:reshape/gemm"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 6))
    y = g.add("Gemm", x, g.store(g.array(6, 36)), g.store(g.array(36)))
    g.output(g.bn(g.add("Reshape", y, g.ints(-1, 4, 3, 3)), 4))


@case("matmul of a sequence, flattened to rows", {"bn": "folded:reshape/matmul"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", ("N", "T", 6))
    y = g.add("MatMul", x, g.store(g.array(6, 5)))
    g.output(g.bn(g.add("Reshape", y, g.ints(-1, 5)), 5))


@case("squeeze", {"bn": "folded:reshape/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 3, 9))
    g.output(g.bn(g.add("Squeeze", g.conv(x, (4, 5)), g.ints(2)), 5))


@case("squeeze by attribute", {"bn": "folded:reshape/conv"}, nodes=2, opset=11)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 3, 3))
    g.output(g.bn(g.add("Squeeze", g.conv(x, (4, 5)), axes=[2, -1]), 5))


@case("unsqueeze", {"bn": "folded:reshape/gemm"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 6))
    y = g.add("Gemm", x, g.store(g.array(6, 5)))
    g.output(g.bn(g.add("Unsqueeze", y, g.ints(-1)), 5))


@case("unsqueeze of one channel in front", {"bn": "folded:reshape/gemm"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 6))
    y = g.add("Gemm", x, g.store(g.array(6, 5)))
    g.output(g.bn(g.add("Unsqueeze", y, g.ints(1)), 1), ("N", 1, 5))


@case("channels shuffled", {"bn": "does not provably keep"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Reshape", g.conv(x, (4, 6), ONE), g.ints(0, 2, 3, 9, 9))
    y = g.add("Transpose", y, perm=[0, 2, 1, 3, 4])
    g.output(g.bn(y, 3))


@case("samples and channels swapped", {"bn": "are not along"})
def _(g: Graph) -> None:
    x = g.input("x", (5, 4, 9, 9))
    g.output(g.bn(g.add("Transpose", g.conv(x, (4, 5)), perm=[1, 0, 2, 3]), 5))


@case("channels moved last and back", {"bn": "folded:transpose/transpose/conv"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Transpose", g.conv(x, (4, 5)), perm=[0, 2, 3, 1])
    g.output(g.bn(g.add("Transpose", y, perm=[0, 3, 1, 2]), 5))


@case("transpose without a permutation", {"bn": "folded:transpose/matmul"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", (6, 3))
    y = g.add("MatMul", g.store(g.array(5, 6)), x)
    g.output(g.bn(g.add("Transpose", y), 5))


@case("padding by reflection before an unpadded conv", {"bn": "folded:pad/next-conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Pad", g.bn(x, 4), g.ints(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect")
    g.output(g.conv(y, (4, 5)))


@case("padding by edges, opset 10", {"bn": "folded:pad/next-conv"}, nodes=2, opset=10)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Pad", g.bn(x, 4), pads=[0, 0, 1, 2, 0, 0, 2, 1], mode="edge")
    g.output(g.conv(y, (4, 5)))


@case("padding by wrapping, explicit axes", {"bn": "folded:pad/next-conv"}, nodes=2, opset=19)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    pads = (g.ints(1, 2, 1, 2), "", g.ints(-1, 2))
    g.output(g.conv(g.add("Pad", g.bn(x, 4), *pads, mode="wrap"), (4, 5)))


@case("padding by zeros", {"bn": "pads with a constant"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Pad", g.bn(x, 4), g.ints(0, 0, 1, 1, 0, 0, 1, 1))
    g.output(g.conv(y, (4, 5)))


@case("padding by zeros, no shift", {"bn": "folded:pad/next-conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Pad", g.bn(x, 4, shift=False), g.ints(0, 0, 1, 1, 0, 0, 1, 1))
    g.output(g.conv(y, (4, 5)))


@case("padding by a nonzero constant, no shift", {"bn": "pads with a constant"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    pads, value = g.ints(0, 0, 1, 1, 0, 0, 1, 1), g.store(np.array(0.5))
    g.output(g.conv(g.add("Pad", g.bn(x, 4, shift=False), pads, value), (4, 5)))


@case("padding of channels", {"bn": "may pad the channel axis"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Pad", g.bn(x, 4), g.ints(0, 1, 0, 0, 0, 0, 0, 0), mode="edge")
    g.output(g.conv(y, (5, 5)))


@case("padding by reflection after a convolution", {"bn": "folded:pad/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Pad", g.conv(x, (4, 5)), g.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
    g.output(g.bn(y, 5))


@case("nearest upsampling", {"bn": "folded:resize/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    scales = g.store(np.array([1.0, 1.0, 2.0, 2.0]))
    y = g.add("Resize", g.conv(x, (4, 5)), "", scales, mode="nearest")
    g.output(g.bn(y, 5))


@case("linear upsampling", {"bn": "folded:resize/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    scales = g.store(np.array([1.0, 1.0, 1.5, 2.0]))
    y = g.add("Resize", g.conv(x, (4, 5)), "", scales, mode="linear")
    g.output(g.bn(y, 5))


@case("upsampling, opset 9", {"bn": "folded:resize/conv"}, nodes=2, opset=9)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    scales = g.store(np.array([1.0, 1.0, 2.0, 2.0]))
    g.output(g.bn(g.add("Upsample", g.conv(x, (4, 5)), scales, mode="nearest"), 5))


@case("cubic upsampling", {"bn": "may mix channels or extrapolate"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    scales = g.store(np.array([1.0, 1.0, 2.0, 2.0]))
    y = g.add("Resize", g.conv(x, (4, 5)), "", scales, mode="cubic")
    g.output(g.bn(y, 5))


@case(
    "resizing to sizes from a graph input",
    {"bn": "may mix channels"},
    feeds={"s": np.array([2, 5, 9, 9])},
)
def _(g: Graph) -> None:
    x, sizes = g.input("x", IMAGE), g.input("s", (4,), "int64")
    y = g.add("Resize", g.conv(x, (4, 5)), "", "", sizes, mode="nearest")
    g.output(g.bn(y, 5), ("N", 5, "H", "W"))
