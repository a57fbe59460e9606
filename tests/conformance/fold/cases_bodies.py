"""Bodies of If and Loop, and local functions."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.conformance.fold.building import Cases, Graph

CASES = Cases()
case = CASES.case

IMAGE = ("N", 4, 9, 9)


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ("N", 6, 7, 7))


def _body(name: str, op: str, *inputs: str, out: str) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node(op, inputs, [out])], name, [], [_value(out)])


@case("a body reads the convolution", {"bn": "is also read in a subgraph"})
def _(g: Graph) -> None:
    x, flag = g.input("x", IMAGE), g.input("flag", (), "bool")
    y = g.conv(x, (4, 6))
    g.output(g.bn(y, 6))
    then, other = _body("then", "Relu", y, out="t"), _body("else", "Neg", y, out="e")
    g.output(g.add("If", flag, then_branch=then, else_branch=other), ("N", 6, 7, 7))


@case("a body reads the layer", {"bn": "folded:conv"}, nodes=2)
def _(g: Graph) -> None:
    x, flag = g.input("x", IMAGE), g.input("flag", (), "bool")
    y = g.bn(g.conv(x, (4, 6)), 6)
    then, other = _body("then", "Relu", y, out="t"), _body("else", "Neg", y, out="e")
    g.output(g.add("If", flag, then_branch=then, else_branch=other), ("N", 6, 7, 7))


@case("only a body reads a layer on the input", {"bn": "reads it in a subgraph"})
def _(g: Graph) -> None:
    x, flag = g.input("x", ("N", 6, 7, 7)), g.input("flag", (), "bool")
    y = g.bn(x, 6)
    then, other = _body("then", "Relu", y, out="t"), _body("else", "Neg", y, out="e")
    g.output(g.add("If", flag, then_branch=then, else_branch=other), ("N", 6, 7, 7))


@case("a body reads the weight", {"bn": "folded:conv"}, nodes=2)
def _(g: Graph) -> None:
    x, flag = g.input("x", IMAGE), g.input("flag", (), "bool")
    weight = g.store(g.array(6, 4, 3, 3), "weight")
    g.output(g.bn(g.conv(x, (4, 6), weight=weight), 6))
    then = _body("then", "Conv", x, weight, out="t")
    other = _body("else", "Conv", x, weight, out="e")
    g.output(g.add("If", flag, then_branch=then, else_branch=other), ("N", 6, 7, 7))


@case("a layer inside a body", {"inner": "in the subgraph of an If", "bn": "folded:conv"})
def _(g: Graph) -> None:
    x, flag = g.input("x", IMAGE), g.input("flag", (), "bool")
    y = g.bn(g.conv(x, (4, 6)), 6)
    names = ["bn.gamma", "bn.beta", "bn.mean", "bn.var"]
    inner = helper.make_node("BatchNormalization", [y, *names], ["t"], name="inner")
    then = helper.make_graph([inner], "then", [], [_value("t")])
    other = _body("else", "Neg", y, out="e")
    g.output(g.add("If", flag, then_branch=then, else_branch=other), ("N", 6, 7, 7))


@case("a body defines the names that folding would take", {"bn": "folded:conv"})
def _(g: Graph) -> None:
    x, flag = g.input("x", IMAGE), g.input("flag", (), "bool")
    weight = g.store(g.array(6, 4, 3, 3), "weight")
    g.output(g.bn(g.conv(x, (4, 6), weight=weight, bias=False), 6))
    g.output(g.conv(x, (4, 6), weight=weight))
    then = _body("then", "Conv", x, "weight", out="weight.folded")
    other = _body("else", "Conv", x, "weight", out="weight.folded_bias")
    g.output(g.add("If", flag, then_branch=then, else_branch=other), ("N", 6, 7, 7))


@case("a layer inside a loop", {"inner": "in the subgraph of an If, Loop or Scan"})
def _(g: Graph) -> None:
    x = g.input("x", (2, 4))
    for name in ("gamma", "beta", "mean", "var"):
        g.store(np.array([0.5, 1.5, 1.0, 0.7]), name)
    inner = helper.make_node(
        "BatchNormalization", ["state", "gamma", "beta", "mean", "var"], ["next"], name="inner"
    )
    step = helper.make_graph(
        [inner, helper.make_node("Identity", ["go"], ["on"])],
        "step",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, (2, 4)),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, (2, 4)),
        ],
    )
    trips, go = g.store(np.array(3, dtype=np.int64)), g.store(np.ones((), dtype=np.bool_))
    g.output(g.add("Loop", trips, go, x, body=step), (2, 4))


@case("a layer inside a local function", {"bn": "folded:conv"}, nodes=2)
def _(g: Graph) -> None:
    g.domains.append("local")
    g.functions.append(_function("Block", g.opset))
    x = g.input("x", IMAGE)
    y = g.bn(g.conv(x, (4, 6)), 6)
    params = [*g.nodes.pop().input][1:]
    g.output(g.add("Block", g.nodes[-1].output[0], *params, domain="local", out=y))


@case("a function without a layer is kept", {"bn": "folded:conv"}, nodes=2)
def _(g: Graph) -> None:
    g.domains.append("local")
    relu = helper.make_node("Relu", ["x"], ["y"])
    imports = [helper.make_opsetid("", g.opset)]
    g.functions.append(helper.make_function("local", "Act", ["x"], ["y"], [relu], imports))
    x = g.input("x", IMAGE)
    y = g.bn(g.conv(x, (4, 6)), 6)
    g.output(g.add("Act", y, domain="local"))


def _function(name: str, opset: int) -> onnx.FunctionProto:
    names = ["gamma", "beta", "mean", "var"]
    nodes = [
        helper.make_node("BatchNormalization", ["x", *names], ["n"], name="bn", epsilon=1e-3),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    imports = [helper.make_opsetid("", opset)]
    return helper.make_function("local", name, ["x", *names], ["y"], nodes, imports)
