"""Consecutive layers, sums, products and concatenations."""

from __future__ import annotations

from tests.conformance.fold.building import Cases, Graph

CASES = Cases()
case = CASES.case

IMAGE = ("N", 4, 9, 9)
ONE = (1, 1)


@case("layer after layer", {"bn1": "folded:next-batchnorm", "bn2": "is an input"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.bn(x, 4, "bn1"), 4, "bn2"))


@case(
    "three layers in a row",
    {"bn1": "folded:next-batchnorm", "bn2": "folded:next-batchnorm", "bn3": "is an input"},
    nodes=1,
)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.bn(g.bn(x, 4, "bn1"), 4, "bn2"), 4, "bn3"))


@case("layer read by two layers", {"bn": "folded:next-batchnorm", "a": "by", "b": "by"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(x, 4)
    g.output(g.bn(y, 4, "a"))
    g.output(g.bn(y, 4, "b"))


@case("concat of two convolutions", {"bn": "folded:concat/conv"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Concat", g.conv(x, (4, 3)), g.conv(x, (4, 5)), axis=1)
    g.output(g.bn(y, 8))


@case("concat along a negative axis", {"bn": "folded:concat/conv"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Concat", g.conv(x, (4, 3)), g.conv(x, (4, 5)), axis=-3)
    g.output(g.bn(y, 8))


@case("concat of concats", {"bn": "folded:concat/concat/conv+conv"}, nodes=5)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    inner = g.add("Concat", g.conv(x, (4, 3)), g.conv(x, (4, 2)), axis=1)
    g.output(g.bn(g.add("Concat", inner, g.conv(x, (4, 1)), axis=1), 6))


@case("concat with a stored branch", {"bn": "folded:concat/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", (2, 4, 9, 9))
    y = g.add("Concat", g.conv(x, (4, 3), ONE), g.store(g.array(2, 2, 9, 9)), axis=1)
    g.output(g.bn(y, 5))


@case("concat along positions", {"bn": "folded:concat/conv"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Concat", g.conv(x, (4, 5), ONE), g.conv(x, (4, 5), ONE), axis=2)
    g.output(g.bn(y, 5))


@case("concat whose branch has another reader", {"bn": "is read more than once"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    first = g.conv(x, (4, 3))
    y = g.bn(g.add("Concat", first, g.conv(x, (4, 5)), axis=1), 8)
    g.output(y)
    g.output(g.add("Relu", first))


@case("concat of a convolution with itself", {"bn": "is read more than once"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    first = g.conv(x, (4, 3))
    g.output(g.bn(g.add("Concat", first, first, axis=1), 6))


@case("concat with a branch that is not linear", {"bn": "no exact rule passes Relu"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Concat", g.conv(x, (4, 3)), g.add("Relu", g.conv(x, (4, 5))), axis=1)
    g.output(g.bn(y, 8))


@case(
    "concat of branches of unknown sizes", {"bn": "the inputs of Concat 'n_concat5' are not known"}
)
def _(g: Graph) -> None:
    x, y = g.input("x", ("N", "A", 3)), g.input("y", ("N", "B", 3))
    g.nodes.clear()
    g._count = 4
    g.output(g.bn(g.add("Concat", x, y, axis=1), 4), ("N", 4, 3))


@case("layer on one branch of a concat", {"bn": "folded:concat/next-conv"}, nodes=2)
def _(g: Graph) -> None:
    x, y = g.input("x", IMAGE), g.input("y", ("N", 2, 9, 9))
    g.output(g.conv(g.add("Concat", y, g.bn(x, 4), axis=1), (6, 5)))


@case(
    "layers on both branches of a concat",
    {"a": "folded:concat/next-conv", "b": "folded:concat/next-conv"},
    nodes=2,
)
def _(g: Graph) -> None:
    x, y = g.input("x", IMAGE), g.input("y", ("N", 2, 9, 9))
    g.output(g.conv(g.add("Concat", g.bn(y, 2, "a"), g.bn(x, 4, "b"), axis=1), (6, 5)))


@case("layer twice in one concat", {"bn": "is reached on more than one path"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(x, 4)
    g.output(g.conv(g.add("Concat", y, y, axis=1), (8, 5)))


@case("layer on two paths into one concat", {"bn": "is reached on more than one path"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(x, 4)
    joined = g.add("Concat", y, g.add("Identity", y), axis=1)
    g.output(g.conv(joined, (8, 5)))


@case("layer concatenated along positions", {"bn": "values that are not normalized"})
def _(g: Graph) -> None:
    x, y = g.input("x", IMAGE), g.input("y", IMAGE)
    g.output(g.conv(g.add("Concat", y, g.bn(x, 4), axis=3), (4, 5)))


@case("add of two convolutions", {"bn": "folded:add/conv"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Add", g.conv(x, (4, 5)), g.conv(x, (4, 5), bias=False))
    g.output(g.bn(y, 5))


@case("sum of three convolutions", {"bn": "folded:add/conv"}, nodes=4)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Sum", g.conv(x, (4, 5)), g.conv(x, (4, 5)), g.conv(x, (4, 5)))
    g.output(g.bn(y, 5))


@case("difference of two convolutions", {"bn": "folded:add/conv"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.add("Sub", g.conv(x, (4, 5)), g.conv(x, (4, 5))), 5))


@case("convolution minus stored tensor", {"bn": "folded:add/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.add("Sub", g.conv(x, (4, 5)), g.store(g.array(5, 1, 1))), 5))


@case("stored tensor minus convolution", {"bn": "folded:add/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.add("Sub", g.store(g.array(5, 1, 1)), g.conv(x, (4, 5))), 5))


@case("add of a stored image", {"bn": "folded:add/conv"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.add("Add", g.conv(x, (4, 5)), g.store(g.array(7, 7))), 5))


@case("add of residual branches with layers", {"a": "folded:conv", "bn": "folded:add/conv"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Add", g.bn(g.conv(x, (4, 5)), 5, "a"), g.conv(x, (4, 5)))
    g.output(g.bn(y, 5))


@case("add of an input", {"bn": "'x' is read more than once"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.add("Add", g.conv(x, (4, 4), ONE), x), 4))


@case("add of a convolution to itself", {"bn": "is read more than once"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 5))
    g.output(g.bn(g.add("Add", y, y), 5))


@case("add of a branch without positions", {"bn": "folded:add/conv"}, nodes=4)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    gate = g.conv(g.add("GlobalAveragePool", x), (4, 5), ONE)
    g.output(g.bn(g.add("Add", gate, g.conv(x, (4, 5))), 5))


@case("add of a branch of one channel", {"bn": "may be broadcast"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Add", g.conv(x, (4, 5)), g.conv(x, (4, 1)))
    g.output(g.bn(y, 5))


@case("add of a branch of lower rank", {"bn": "may be broadcast"})
def _(g: Graph) -> None:
    x, y = g.input("x", IMAGE), g.input("y", (7, 6))
    small = g.add("MatMul", y, g.store(g.array(6, 7)))
    g.output(g.bn(g.add("Add", g.conv(x, (4, 5)), small), 5))


@case("layer before a sum", {"bn": "would be scaled with it"})
def _(g: Graph) -> None:
    x, y = g.input("x", IMAGE), g.input("y", IMAGE)
    g.output(g.conv(g.add("Add", g.bn(x, 4), y), (4, 5)))


@case("layer, stored factor, stored term", {"bn": "folded:next-mul"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Mul", g.bn(x, 4), g.store(g.array(4, 1, 1)))
    g.output(g.add("Relu", g.add("Add", y, g.store(g.array(4, 1, 1)))))


@case("layer and stored factor per position", {"bn": "depend on the position"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Mul", g.bn(x, 4), g.store(g.array(4, 9, 9)))
    g.output(g.add("Add", y, g.store(g.array(4, 1, 1))))


@case("convolution, stored factor, stored term, layer", {"bn": "folded:add/mul"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Mul", g.conv(x, (4, 5)), g.store(g.array(5, 1, 1)))
    g.output(g.bn(g.add("Add", y, g.store(g.array(5, 1, 1))), 5))


@case("convolution times an input", {"bn": "cannot absorb a shift"})
def _(g: Graph) -> None:
    x, y = g.input("x", IMAGE), g.input("y", ("N", 5, 7, 7))
    g.output(g.bn(g.add("Mul", g.conv(x, (4, 5)), y), 5))
