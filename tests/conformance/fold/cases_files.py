"""Forms of stored weights: element types, opsets, IR versions, Constant nodes, overrides."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from tests.conformance.fold.building import Cases, Graph

CASES = Cases()
case = CASES.case

INTO_CONV = {"bn": "folded:conv"}
IMAGE = ("N", 4, 9, 9)
NEWEST = min(onnx.defs.onnx_opset_version(), 25)


def _conv_of_opset(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6), pads=[1, 1, 1, 1]), 6), ("N", 6, 9, 9))


for _opset in range(7, NEWEST + 1):
    case(f"conv of opset {_opset}", INTO_CONV, nodes=1, opset=_opset)(_conv_of_opset)


def _matmul_of_opset(g: Graph) -> None:
    x = g.input("x", ("N", 6))
    y = g.add("MatMul", x, g.store(g.array(6, 5)))
    g.output(g.add("Relu", g.bn(y, 5)))


for _opset in range(9, NEWEST + 1):
    case(f"matmul of opset {_opset}", {"bn": "folded:matmul"}, nodes=2, opset=_opset)(
        _matmul_of_opset
    )


@case("float16 throughout", INTO_CONV, nodes=1, dtype="float16", tolerance=2e-3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6)), 6))


@case("float16 with float32 statistics", INTO_CONV, nodes=1, dtype="float16", tolerance=2e-3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6), bias=False), 6, stats="float32"))


@case("float16 gemm", {"bn": "folded:gemm"}, nodes=1, dtype="float16", tolerance=2e-3)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 6))
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), g.store(g.array(5))), 5))


@case("float16 matmul to gemm", {"bn": "folded:matmul"}, nodes=1, dtype="float16", tolerance=2e-3)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 6))
    g.output(g.bn(g.add("MatMul", x, g.store(g.array(6, 5))), 5))


@case("float16 that would overflow", {"bn": "would overflow"}, dtype="float16", tolerance=2e-3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6), weight=g.store(1000.0 * g.array(6, 4, 3, 3)), bias=False)
    y = g.bn(y, 6, shift=False, stats="float32")
    g.store(np.full(6, 1e-6), "bn.var", "float32")
    g.output(y)


@case("float16 that would underflow", {"bn": "underflow"}, dtype="float16", tolerance=2e-3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(g.conv(x, (4, 6), bias=False), 6, shift=False, stats="float32")
    g.store(np.full(6, 1e12), "bn.var", "float32")
    g.output(y)


@case("bfloat16", INTO_CONV, nodes=1, dtype="bfloat16", opset=22, runs=False, tolerance=1.6e-2)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6)), 6, stats="float32"))


@case("float64 gemm", {"bn": "folded:gemm"}, nodes=1, dtype="float64", tolerance=1e-12)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 6))
    g.output(g.bn(g.add("Gemm", x, g.store(g.array(6, 5)), alpha=0.5), 5))


@case("float64 matmul", {"bn": "folded:transpose/matmul"}, dtype="float64", tolerance=1e-12)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 7, 6))
    y = g.add("MatMul", x, g.store(g.array(6, 5)))
    g.output(g.bn(g.add("Transpose", y, perm=[0, 2, 1]), 5))


@case(
    "float64 layers", {"a": "folded:next-batchnorm", "b": "input"}, dtype="float64", tolerance=1e-12
)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.bn(x, 4, "a"), 4, "b"))


@case("layer before a float16 conv", {"bn": "folded:next-conv"}, dtype="float16", tolerance=2e-3)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.conv(g.bn(x, 4, stats="float32"), (4, 6)))


@case("a cast to float32 before the layer", {"bn": "no exact rule passes Cast"}, dtype="float16")
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.add("Cast", g.conv(x, (4, 6)), to=onnx.TensorProto.FLOAT)
    g.dtype = "float32"
    g.output(g.bn(y, 6))


@case("weight in a Constant node", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    tensor = numpy_helper.from_array(g.array(6, 4, 3, 3).astype(np.float32))
    g.output(g.bn(g.conv(x, (4, 6), weight=g.add("Constant", value=tensor)), 6))


@case("parameters in Constant nodes", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 2))
    values = ([1.5, -2.0], [0.1, 0.2], [0.3, -0.4], [0.5, 2.0])
    names = [g.add("Constant", value_floats=list(v)) for v in values]
    g.output(g.add("BatchNormalization", y, *names, name="bn"))


@case("a Constant node shared by two convolutions", {"a": "folded:conv", "b": "folded:conv"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    tensor = numpy_helper.from_array(g.array(6, 4, 3, 3).astype(np.float32))
    weight = g.add("Constant", value=tensor)
    g.output(g.bn(g.conv(x, (4, 6), weight=weight), 6, "a"))
    g.output(g.bn(g.conv(x, (4, 6), weight=weight), 6, "b"))


@case("weight and parameters behind Identity", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(g.conv(x, (4, 6), weight=g.add("Identity", g.store(g.array(6, 4, 3, 3)))), 6)
    again = g.add("Identity", "bn.gamma")
    g.nodes[-2].input[1] = again
    g.nodes.insert(0, g.nodes.pop())
    g.output(y)


@case("weight filled by ConstantOfShape", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    fill = numpy_helper.from_array(np.array([0.25], dtype=np.float32))
    weight = g.add("ConstantOfShape", g.ints(6, 4, 3, 3), value=fill)
    g.output(g.bn(g.conv(x, (4, 6), weight=weight), 6))


@case("weight stored transposed", {"bn": "folded:gemm"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 6))
    weight = g.add("Transpose", g.store(g.array(5, 6)), perm=[1, 0])
    g.output(g.bn(g.add("Gemm", x, weight), 5))


@case("weight stored flat and in float16", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    flat = g.store(g.array(6 * 4 * 9), dtype="float16")
    weight = g.add("Reshape", g.add("Cast", flat, to=onnx.TensorProto.FLOAT), g.ints(6, 4, 3, 3))
    g.output(g.bn(g.conv(x, (4, 6), weight=weight), 6))


@case("parameters stored with an extra axis", INTO_CONV, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6))
    names = [g.store(np.abs(g.array(1, 6, 1)) + 0.5) for _ in range(3)]
    squeezed = [g.add("Squeeze", name, g.ints(0, 2)) for name in names]
    var = g.add("Squeeze", g.add("Unsqueeze", g.store(np.full(6, 0.7)), g.ints(0)), g.ints(0))
    g.output(g.add("BatchNormalization", y, *squeezed, var, name="bn"))


@case("dequantized weight", {"bn": "is computed by DequantizeLinear"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    levels = g.store(g.random.integers(-127, 127, (6, 4, 3, 3)).astype(np.int8))
    weight = g.add("DequantizeLinear", levels, g.store(np.array(0.01)))
    g.output(g.bn(g.conv(x, (4, 6), weight=weight), 6))


@case("weight as a graph input", {"bn": "is an input of the graph"})
def _(g: Graph) -> None:
    x, weight = g.input("x", IMAGE), g.input("w", (6, 4, 3, 3))
    g.output(g.bn(g.conv(x, (4, 6), weight=weight), 6))


@case("weight that a caller may override", {"bn": "a caller may override it"})
def _(g: Graph) -> None:
    x, weight = g.input("x", IMAGE), g.store(g.array(6, 4, 3, 3), "weight")
    g.input(weight, (6, 4, 3, 3))
    g.output(g.bn(g.conv(x, (4, 6), weight=weight), 6))


@case("bias that a caller may override", {"bn": "a caller may override it"})
def _(g: Graph) -> None:
    x, bias = g.input("x", IMAGE), g.store(g.array(6), "bias")
    g.input(bias, (6,))
    g.output(g.bn(g.add("Conv", x, g.store(g.array(6, 4, 3, 3)), bias), 6))


@case("parameters that a caller may override", {"bn": "its mean cannot be read: 'bn.mean' is also"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6)), 6))
    g.input("bn.mean", (6,))


@case("factor that a caller may override", {"bn": "no exact rule passes Mul"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    factor = g.store(g.array(4, 1, 1), "factor")
    g.input(factor, (4, 1, 1))
    y = g.add("Mul", g.bn(x, 4), factor)
    g.output(g.add("Add", y, g.store(g.array(4, 1, 1))))


@case("sizes that a caller may override", {"bn": "does not provably keep"})
def _(g: Graph) -> None:
    x, sizes = g.input("x", ("N", 4, 3, 3)), g.ints(-1, 36)
    g.input(sizes, (2,), "int64")
    y = g.add("Reshape", g.bn(x, 4), sizes)
    g.output(g.add("Gemm", y, g.store(g.array(36, 5))), ("N", 5))


@case("parameters that are computed", {"bn": "its scale cannot be read: 'abs2' is computed by Abs"})
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6), bias=False)
    scale = g.add("Abs", g.store(g.array(6)), out="abs2")
    names = [g.store(np.abs(g.array(6)) + 0.5) for _ in range(3)]
    g.output(g.add("BatchNormalization", y, scale, *names, name="bn"))


@case("IR version 3, weights listed among the inputs", INTO_CONV, nodes=2, opset=8)
def _(g: Graph) -> None:
    g.ir_version = 3
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6), bias=False)
    g.output(g.add("Relu", g.bn(y, 6)))
    for name, tensor in g.weights.items():
        g.input(name, list(tensor.dims))


@case("IR version 3, a weight shared", {"a": "folded:conv", "b": "folded:conv"}, nodes=3, opset=8)
def _(g: Graph) -> None:
    g.ir_version = 3
    x, weight = g.input("x", IMAGE), g.store(g.array(4, 4, 3, 3), "weight")
    y = g.add("Relu", g.bn(g.conv(x, (4, 4), weight=weight, bias=False), 4, "a"))
    g.output(g.bn(g.conv(y, (4, 4), weight=weight, bias=False), 4, "b"))
    for name, tensor in g.weights.items():
        g.input(name, list(tensor.dims))


@case("training mode", {"bn": "training_mode is 1"}, runs=False)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6)), 6, training_mode=1, more_outputs=["mean", "var"]))


@case("training mode with one output", {"bn": "training_mode is 1"}, runs=False, valid=False)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6)), 6, training_mode=1), ("N", 6, 7, 7))


@case(
    "layers on both sides of one in training mode",
    {"a": "folded:conv", "b": "training_mode is 1", "c": "cannot absorb it"},
    runs=False,
    valid=False,
)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(g.bn(g.conv(x, (4, 6)), 6, "a"), 6, "b", training_mode=1)
    g.output(g.bn(y, 6, "c"), ("N", 6, 7, 7))


@case("five outputs before opset 14", {"bn": "it has outputs for them"}, runs=False, opset=9)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6)), 6, more_outputs=["m", "v", "sm", "sv"]))


@case("five outputs with empty names", INTO_CONV, opset=9, runs=False, reference=False)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6)), 6, more_outputs=["", "", "", ""]))


@case("statistics per position, opset 8", {"bn": "spatial is 0"}, runs=False, opset=8)
def _(g: Graph) -> None:
    x = g.input("x", ("N", 4))
    g.output(
        g.bn(g.add("Gemm", x, g.store(g.array(4, 6)), g.store(g.array(6))), 6, spatial=0), ("N", 6)
    )


@case("opset 6 outside training", {"bn": "folding supports 7 and later"}, runs=False, opset=6)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(g.conv(x, (4, 6)), 6, is_test=1), ("N", 6, 7, 7))


@case("zero variance and no epsilon", {"bn": "is not positive"}, runs=False)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(g.conv(x, (4, 6)), 6, eps=0.0)
    g.store(np.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]), "bn.var")
    g.output(y)


@case("a negative variance", {"bn": "is not positive"}, runs=False)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(g.conv(x, (4, 6)), 6)
    g.store(np.full(6, -1.0), "bn.var")
    g.output(y)


@case("NaN among the parameters", {"bn": "contain NaN or infinity"}, runs=False)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(g.conv(x, (4, 6)), 6)
    g.store(np.array([0.0, 1.0, np.nan, 0.0, 0.0, 0.0]), "bn.mean")
    g.output(y)


@case("domain spelled ai.onnx", INTO_CONV, nodes=1, valid=False)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6), domain="ai.onnx")
    g.output(g.bn(y, 6, domain="ai.onnx"), ("N", 6, 7, 7))


@case("a node without a name", {"normalized": "folded:conv"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.bn(g.conv(x, (4, 6)), 6, out="normalized")
    g.nodes[-1].ClearField("name")
    g.output(y)


@case("a layer that nothing reads", {"bn": "folded:unused"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6))
    g.bn(y, 6)
    g.output(y)


@case("a layer that only dead nodes read", {"a": "folded:conv", "b": "folded:unused"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6))
    g.output(g.bn(y, 6, "a"))
    g.add("Relu", g.bn(g.add("Neg", y), 6, "b"))


@case("a layer on a graph input", {"bn": "'x' is an input of the graph"}, nodes=1)
def _(g: Graph) -> None:
    x = g.input("x", IMAGE)
    g.output(g.bn(x, 4))


@case("unknown operator before the layer", {"bn": "no exact rule passes Conv"}, runs=False)
def _(g: Graph) -> None:
    g.domains.append("example")
    x = g.input("x", IMAGE)
    y = g.conv(x, (4, 6), domain="example")
    g.output(g.bn(y, 6), ("N", 6, 7, 7))
