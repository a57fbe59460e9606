"""Gemm and MatMul before and after BatchNormalization."""

from __future__ import annotations

import numpy as np

from tests.conformance.fold.building import Cases, Graph

CASES = Cases()
case = CASES.case

ROWS = ("N", 6)
SEQUENCE = ("N", 7, 6)


@case("gemm", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), g.store(g.array(5))), 5))


@case("gemm with alpha, beta and transposed weight", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    weight, bias = g.store(g.array(5, 6)), g.store(g.array(5))
    g.output(g.bn(g.add("Gemm", x, weight, bias, alpha=0.5, beta=-1.7, transB=1), 5))


@case("gemm of equal sizes, weight not transposed", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 6)), g.store(g.array(6))), 6))


@case("gemm without bias", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), alpha=2.0, beta=3.0), 5))


@case("gemm with an empty bias name", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), ""), 5))


@case("gemm with a scalar bias", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), g.store(g.array()), beta=0.5), 5))


@case("gemm with a bias row", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), g.store(g.array(1, 5))), 5))


@case("gemm with a bias column", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", (3, 6))
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), g.store(g.array(3, 1)), beta=2.0), 5))


@case("gemm with a bias matrix", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", (3, 6))
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), g.store(g.array(3, 5)), beta=2.0), 5))


@case("gemm with beta zero and NaN in its bias", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    bias = g.store(np.full(5, np.nan))
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), bias, beta=0.0), 5))


@case("gemm of a transposed input", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", (6, "N"))
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), g.store(g.array(5)), transA=1), 5))


@case("gemm with a bias as a graph input", {"bn": "is an input of the graph"})
def _(g: Graph) -> None:
    x, bias = g.input("x", ROWS), g.input("c", (5,))
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), bias), 5))


@case("gemm with a stored left operand", {"bn": "is an input of the graph"})
def _(g: Graph) -> None:
    x = g.input("x", (6, 5))
    g.output(g.bn(g.add("Gemm", g.store(g.array(4, 6)), x), 5))


@case("two gemms share a weight", {"bn1": "folded:gemm", "bn2": "folded:gemm"}, nodes=3)
def _(g: Graph) -> None:
    x, weight = g.input("x", ROWS), g.store(g.array(6, 6))
    y = g.add("Relu", g.bn(g.add("Gemm", x, weight), 6, "bn1"))
    g.output(g.bn(g.add("Gemm", y, weight, transB=1), 6, "bn2"))


@case("layer before a gemm", {"bn": "folded:next-gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.add("Gemm", g.bn(x, 6), g.store(g.array(6, 5)), g.store(g.array(5))))


@case("layer before a gemm with alpha, beta and transposed weight", {"bn": "folded:next-gemm"})
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    weight, bias = g.store(g.array(5, 6)), g.store(g.array(5))
    g.output(g.add("Gemm", g.bn(x, 6), weight, bias, alpha=0.5, beta=-1.7, transB=1))


@case("layer before a gemm without bias", {"bn": "folded:next-gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.add("Gemm", g.bn(x, 6), g.store(g.array(6, 5)), alpha=3.0))


@case("layer before a gemm that transposes it", {"bn": "are not along"})
def _(g: Graph) -> None:
    x = g.input("x", (6, 6))
    g.output(g.add("Gemm", g.bn(x, 6), g.store(g.array(6, 5)), transA=1))


@case("layer as the right operand of a gemm", {"bn": "are not along"})
def _(g: Graph) -> None:
    x = g.input("x", (6, 6))
    g.output(g.add("Gemm", g.store(g.array(5, 6)), g.bn(x, 6)))


@case("layer as the bias of a gemm", {"bn": "are not along"})
def _(g: Graph) -> None:
    x, c = g.input("x", (4, 6)), g.input("c", (4, 5))
    g.output(g.add("Gemm", x, g.store(g.array(6, 5)), g.bn(c, 5)))


@case("matmul", {"bn": "folded:matmul"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.bn(g.add("MatMul", x, g.store(g.array(6, 5))), 5))


@case("matmul and add", {"bn": "folded:add/matmul"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    y = g.add("MatMul", x, g.store(g.array(6, 5)))
    g.output(g.bn(g.add("Add", y, g.store(g.array(5))), 5))


@case("matmul and add of a stored left term", {"bn": "folded:add/matmul"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    y = g.add("MatMul", x, g.store(g.array(6, 5)))
    g.output(g.bn(g.add("Add", g.store(g.array(1, 5)), y), 5))


@case("matmul and add of a scalar", {"bn": "folded:add/matmul"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    y = g.add("MatMul", x, g.store(g.array(6, 5)))
    g.output(g.bn(g.add("Add", y, g.store(g.array())), 5))


@case("matmul of a sequence, transposed", {"bn": "folded:transpose/matmul"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", SEQUENCE)
    y = g.add("MatMul", x, g.store(g.array(6, 5)))
    g.output(g.bn(g.add("Transpose", y, perm=[0, 2, 1]), 5))


@case("matmul of a sequence, add, transposed", {"bn": "folded:transpose/add/matmul"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", SEQUENCE)
    y = g.add("Add", g.add("MatMul", x, g.store(g.array(6, 5))), g.store(g.array(5)))
    g.output(g.bn(g.add("Transpose", y, perm=[0, 2, 1]), 5))


@case("matmul of a sequence, transposed twice", {"bn": "folded:transpose/add/matmul"}, nodes=4)
def _(g: Graph) -> None:
    x = g.input("x", SEQUENCE)
    y = g.add("Add", g.add("MatMul", x, g.store(g.array(6, 5))), g.store(g.array(5)))
    y = g.bn(g.add("Transpose", y, perm=[0, 2, 1]), 5)
    g.output(g.add("Transpose", y, perm=[0, 2, 1]))


@case("matmul of a square sequence, not transposed", {"bn": "are not along"})
def _(g: Graph) -> None:
    x = g.input("x", ("N", 6, 6))
    g.output(g.bn(g.add("MatMul", x, g.store(g.array(6, 6))), 6))


@case("matmul with the weight on the left", {"bn": "folded:matmul"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", SEQUENCE)
    g.output(g.bn(g.add("MatMul", g.store(g.array(5, 7)), x), 5))


@case("matmul with a stack of weights", {"bn": "folded:transpose/matmul"})
def _(g: Graph) -> None:
    x = g.input("x", (3, 7, 6))
    y = g.add("MatMul", x, g.store(g.array(3, 6, 5)))
    g.output(g.bn(g.add("Transpose", y, perm=[0, 2, 1]), 5))


@case("matmul of two inputs", {"bn": "is an input of the graph"})
def _(g: Graph) -> None:
    x, y = g.input("x", ROWS), g.input("y", (6, 5))
    g.output(g.bn(g.add("MatMul", x, y), 5))


@case("layer before a matmul", {"bn": "folded:next-matmul"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.add("MatMul", g.bn(x, 6), g.store(g.array(6, 5))))


@case("layer before a matmul and add", {"bn": "folded:next-matmul"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    y = g.add("MatMul", g.bn(x, 6), g.store(g.array(6, 5)))
    g.output(g.add("Add", y, g.store(g.array(5))))


@case("layer before a matmul whose output is read twice", {"bn": "folded:next-matmul"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    y = g.add("MatMul", g.bn(x, 6), g.store(g.array(6, 5)))
    g.output(y)
    g.output(g.add("Add", y, g.store(g.array(5))))
    g.output(g.add("Relu", y))


@case("layer, transposed, before a matmul", {"bn": "folded:transpose/next-matmul"}, nodes=3)
def _(g: Graph) -> None:
    x = g.input("x", SEQUENCE)
    y = g.add("Transpose", g.bn(x, 7), perm=[0, 2, 1])
    g.output(g.add("MatMul", y, g.store(g.array(7, 5))))


@case("layer before a matmul with the weight on the left", {"bn": "folded:next-matmul"}, nodes=2)
def _(g: Graph) -> None:
    x = g.input("x", SEQUENCE)
    g.output(g.add("MatMul", g.store(g.array(5, 7)), g.bn(x, 7)))


@case("layer before a matmul along another axis", {"bn": "are not along"})
def _(g: Graph) -> None:
    x = g.input("x", ("N", 6, 6))
    g.output(g.add("MatMul", g.bn(x, 6), g.store(g.array(6, 5))))


@case("layer before a matmul with a vector", {"bn": "are not along"})
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    g.output(g.add("MatMul", g.bn(x, 6), g.store(g.array(6))))


@case("layer, matmul, layer", {"bn1": "folded:next-matmul", "bn2": "folded:matmul"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ROWS)
    y = g.add("MatMul", g.bn(x, 6, "bn1"), g.store(g.array(6, 5)))
    g.output(g.bn(y, 5, "bn2"))
