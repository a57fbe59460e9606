"""Convolutions before and after BatchNormalization."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.conformance.fold.building import Cases, Graph

CASES = Cases()
case = CASES.case

INTO_CONV = {"bn": "folded:conv"}
IMAGE = ("N", 4, 9, 9)


@case("conv 1-d", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 16))
    g.output(g.bn(g.conv(x, (4, 6), (3,), pads=[1, 1]), 6))


@case("conv 2-d", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6), pads=[1, 1, 1, 1]), 6))


@case("conv 3-d", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 2, 5, 6, 7))
    g.output(g.bn(g.conv(x, (2, 4), (3, 3, 3), pads=[1] * 6), 4))


@case("conv grouped", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6), groups=2), 6))


@case("conv depthwise", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 8), groups=4), 8))


@case("conv without bias", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6), bias=False), 6))


@case("conv with an empty bias name", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Conv", x, g.store(g.array(6, 4, 3, 3)), "")
    g.output(g.bn(y, 6))


@case("conv strided, dilated, padded to the same size", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 15, 15))
    y = g.conv(x, (4, 6), strides=[2, 2], auto_pad="SAME_UPPER")
    g.output(g.bn(y, 6))


@case("conv dilated", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 15, 15))
    g.output(g.bn(g.conv(x, (4, 6), dilations=[2, 2], pads=[2, 1, 0, 2]), 6))


@case("conv of one channel", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 1, 9, 9))
    g.output(g.bn(g.conv(x, (1, 1)), 1))


@case("conv of fixed batch size", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", (1, 4, 9, 9))
    g.output(g.bn(g.conv(x, (4, 6)), 6), (1, 6, 7, 7))


@case("conv then two layers in a row", {"bn1": "folded:conv", "bn2": "folded:conv"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.bn(g.conv(x, (4, 6)), 6, "bn1"), 6, "bn2"))


@case(
    "one convolution read by two layers",
    {"bn1": "is read more than once", "bn2": "is read more than once"},
)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6))
    g.output(g.bn(y, 6, "bn1"))
    g.output(g.bn(y, 6, "bn2"))


@case("output of the convolution is a graph output", {"bn": "also an output of the graph"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6))
    g.output(y)
    g.output(g.bn(y, 6))


@case("output of the convolution has another reader", {"bn": "is read more than once"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6))
    g.output(g.add("Add", g.bn(y, 6), g.add("Relu", y)))


@case("two convolutions share a weight", {"bn1": "folded:conv", "bn2": "folded:conv"}, nodes=3)
def _(g: Graph) -> None:
    x, weight = g.input("x", IMAGE), g.store(g.array(4, 4, 3, 3), "shared")
    same: dict[str, Any] = {"weight": weight, "bias": False, "pads": [1, 1, 1, 1]}
    first = g.add("Relu", g.bn(g.conv(x, (4, 4), **same), 4, "bn1"))
    g.output(g.bn(g.conv(first, (4, 4), **same), 4, "bn2"))


@case("a weight is shared with an unnormalized convolution", INTO_CONV, nodes=2)
def _(g: Graph) -> None:
    x, weight = g.input("x", IMAGE), g.store(g.array(6, 4, 3, 3), "shared")
    g.output(g.bn(g.conv(x, (4, 6), weight=weight), 6))
    g.output(g.conv(x, (4, 6), weight=weight))


@case("a bias is shared with an unnormalized convolution", INTO_CONV, nodes=2)
def _(g: Graph) -> None:
    x, bias = g.input("x", IMAGE), g.store(g.array(6), "shared")
    g.output(g.bn(g.add("Conv", x, g.store(g.array(6, 4, 3, 3)), bias), 6))
    g.output(g.add("Conv", x, g.store(g.array(6, 4, 3, 3)), bias))


@case("layers share all their parameters", {"bn": "folded:conv", "again": "folded:conv"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Relu", g.bn(g.conv(x, (4, 4)), 4))
    names = ["bn.gamma", "bn.beta", "bn.mean", "bn.var"]
    y = g.add("BatchNormalization", g.conv(y, (4, 4)), *names, name="again")
    g.output(y)


@case("the bias is also the layer's shift", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Conv", x, g.store(g.array(6, 4, 3, 3)), "bn.beta")
    g.output(g.bn(y, 6))


@case("the weight is also a graph output", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x, weight = g.input("x", IMAGE), g.store(g.array(6, 4, 3, 3), "weight")
    g.output(g.bn(g.conv(x, (4, 6), weight=weight), 6))
    g.output(weight, (6, 4, 3, 3))


@case("conv without bias, layer without shift", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6), bias=False), 6, shift=False))


@case("layer with zero scales and tiny variances", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(g.conv(x, (4, 6)), 6, eps=1e-5)
    g.store(np.array([0.0, 1.0, -1.0, 0.0, 2.0, 1e-30]), "bn.gamma")
    g.store(np.array([0.0, 1e-8, 1.0, 1e-12, 0.5, 0.0]), "bn.var")
    g.output(y)


@case("conv transposed", {"bn": "folded:conv-transpose"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 5, 5))
    y = g.add("ConvTranspose", x, g.store(g.array(4, 6, 3, 3)), g.store(g.array(6)), strides=[2, 2])
    g.output(g.bn(y, 6))


@case("conv transposed and grouped", {"bn": "folded:conv-transpose"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 5, 5))
    attrs: dict[str, Any] = {
        "group": 2,
        "strides": [2, 2],
        "pads": [1, 1, 1, 1],
        "output_padding": [1, 1],
    }
    g.output(g.bn(g.add("ConvTranspose", x, g.store(g.array(4, 3, 3, 3)), **attrs), 6))


@case("conv transposed 1-d", {"bn": "folded:conv-transpose"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 5))
    g.output(g.bn(g.add("ConvTranspose", x, g.store(g.array(4, 3, 3)), ""), 3))


@case("conv transposed 3-d and grouped", {"bn": "folded:conv-transpose"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 4, 3, 3))
    y = g.add("ConvTranspose", x, g.store(g.array(4, 3, 2, 2, 2)), g.store(g.array(6)), group=2)
    g.output(g.bn(y, 6))


@case("layer before a transposed convolution", {"bn": "fewer inputs at its borders"})
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 5, 5))
    g.output(g.add("ConvTranspose", g.bn(x, 4), g.store(g.array(4, 6, 3, 3))))


@case(
    "layer without shift before a grouped transposed convolution",
    {"bn": "folded:next-conv-transpose"},
    nodes=1,
)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 5, 5))
    y = g.add("ConvTranspose", g.bn(x, 4, shift=False), g.store(g.array(4, 3, 3, 3)), group=2)
    g.output(y)


@case("layer before an unpadded convolution", {"bn": "folded:next-conv"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.conv(g.bn(x, 4), (4, 6)))


@case("layer before an unpadded grouped convolution", {"bn": "folded:next-conv"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.conv(g.bn(x, 4), (4, 6), groups=2, bias=False, auto_pad="VALID"))


@case("layer before an unpadded 3-d convolution", {"bn": "folded:next-conv"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4, 5, 5, 5))
    g.output(g.conv(g.bn(x, 4), (4, 6), (2, 2, 2), pads=[0] * 6))


@case("layer before a padded convolution", {"bn": "pads with zeros"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.conv(g.bn(x, 4), (4, 6), pads=[1, 1, 1, 1]))


@case("layer before a convolution padded to the same size", {"bn": "pads with zeros"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.conv(g.bn(x, 4), (4, 6), auto_pad="SAME_LOWER"))


@case("layer without shift before a padded convolution", {"bn": "folded:next-conv"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.conv(g.bn(x, 4, shift=False), (4, 6), pads=[1, 1, 1, 1]))


@case("conv, activation, layer, unpadded conv", {"bn": "folded:next-conv"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(g.add("Relu", g.conv(x, (4, 6))), 6)
    g.output(g.conv(y, (6, 5)))


@case("conv, activation, layer, padded conv", {"bn": "pads with zeros"}, nodes=4)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(g.add("Relu", g.conv(x, (4, 6))), 6)
    g.output(g.conv(y, (6, 5), pads=[1, 1, 1, 1]))


@case("layer before two unpadded convolutions", {"bn": "folded:next-conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(x, 4)
    g.output(g.conv(y, (4, 6)))
    g.output(g.conv(y, (4, 5), (1, 1)))


@case("layer before an unpadded convolution and an activation", {"bn": "no exact rule passes Relu"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(x, 4)
    g.output(g.conv(y, (4, 6)))
    g.output(g.add("Relu", y))


@case("layer whose output is also a graph output", {"bn": "is an output of the graph"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(x, 4)
    g.output(y)
    g.output(g.conv(y, (4, 6)))


@case("layer as the weight of a convolution", {"bn": "are not along"}, sizes={"O": 3})
def _(g: Graph) -> None:
    x, w = g.input("x", (2, 4, 9, 9)), g.input("w", (5, 4, 3, 3))
    g.output(g.add("Conv", x, g.bn(w, 4)))
