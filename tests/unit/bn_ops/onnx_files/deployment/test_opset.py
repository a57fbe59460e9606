"""Conversion between opsets, against onnxruntime's results for the original."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

import bn_ops
from bn_ops.errors import TargetError
from bn_ops.onnx_files.deployment.opset import convert_opset, max_opset
from bn_ops.onnx_files.traversal import standard_opset
from tests.support.deployment_networks import AFTER, CHANNELS, SIDE, network
from tests.support.onnx_run import run_onnx

pytestmark = pytest.mark.xdist_group("deployment exports")

X = np.random.default_rng(0).normal(size=(3, CHANNELS, SIDE, SIDE)).astype(np.float32)


@cache
def exported(name: str) -> onnx.ModelProto:
    return bn_ops.export(network(name), torch.zeros(2, CHANNELS, SIDE, SIDE))


def output(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return run_onnx(model, {"x": x})[0].astype(np.float32)


@pytest.mark.parametrize("name", AFTER)
def test_every_opset_from_11_computes_the_same(name: str) -> None:
    model = exported(name)
    wanted = output(model, X)
    for opset in range(11, 24):
        converted = convert_opset(model, opset)
        assert standard_opset(converted) == opset
        found = output(converted, X)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("name", AFTER)
def test_there_and_back_computes_the_same(name: str) -> None:
    model = exported(name)
    wanted = output(model, X)
    back = convert_opset(convert_opset(model, 12), 20)
    found = output(back, X)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def test_names_inputs_weights_and_metadata_are_kept() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(exported("clip"))
    model.metadata_props.add(key="owner", value="test")
    before = model.SerializeToString(deterministic=True)
    converted = convert_opset(model, 13)
    assert model.SerializeToString(deterministic=True) == before
    assert [v.name for v in converted.graph.input] == ["x"]
    assert [v.name for v in converted.graph.output] == [v.name for v in model.graph.output]
    assert [n.name for n in converted.graph.node] == [n.name for n in model.graph.node]
    assert list(converted.graph.initializer) == list(model.graph.initializer)
    assert converted.metadata_props[0].value == "test"


@pytest.mark.parametrize(("opset", "ir"), [(11, 6), (13, 7), (15, 8), (19, 9)])
def test_an_older_runtime_accepts_the_ir_version(opset: int, ir: int) -> None:
    assert convert_opset(exported("clip"), opset).ir_version <= ir


def test_the_same_opset_returns_the_same_object() -> None:
    model = exported("clip")
    assert convert_opset(model, 20) is model


def weighted(
    nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.float32]], opset: int
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", "K"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def test_large_weights_are_copied_as_they_are() -> None:
    weight = np.random.default_rng(1).normal(size=(4, 300)).astype(np.float32)
    model = weighted([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, 17)
    converted = convert_opset(model, 11)
    assert converted.graph.initializer[0] == model.graph.initializer[0]
    assert [v.name for v in converted.graph.input] == ["x"]


def test_an_operator_that_the_opset_lacks_is_named() -> None:
    model = weighted([helper.make_node("Round", ["x"], ["y"])], {}, 20)
    with pytest.raises(TargetError, match=r"operator Round does not exist in opset 10: .* 11") as e:
        convert_opset(model, 10)
    assert e.value.details() == {"operator": "Round", "opset": 10}


def test_a_change_that_cannot_be_expressed_is_named() -> None:
    nodes = [helper.make_node("TopK", ["x", "k"], ["y", "i"], largest=0)]
    model = weighted(nodes, {}, 20)
    model.graph.initializer.append(numpy_helper.from_array(np.array([2], dtype=np.int64), "k"))
    with pytest.raises(TargetError, match="operator TopK cannot be converted from opset") as error:
        convert_opset(model, 9)
    assert error.value.operator == "TopK"


def test_a_size_of_zero_in_a_reshape_is_not_reinterpreted() -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"], allowzero=1)]
    model = weighted(nodes, {}, 20)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 4], dtype=np.int64), "s"))
    with pytest.raises(TargetError, match="Reshape"):
        convert_opset(model, 13)


def test_dropout_that_trains_is_not_removed() -> None:
    nodes = [helper.make_node("Dropout", ["x", "", "t"], ["y"])]
    model = weighted(nodes, {}, 20)
    model.graph.initializer.append(numpy_helper.from_array(np.array([True]).reshape(()), "t"))
    with pytest.raises(TargetError, match="Dropout"):
        convert_opset(model, 11)


def test_bounds_of_clip_that_are_computed_cannot_become_attributes() -> None:
    nodes = [
        helper.make_node("ReduceMin", ["x"], ["low"], keepdims=0),
        helper.make_node("Clip", ["x", "low"], ["y"]),
    ]
    with pytest.raises(TargetError, match="Clip"):
        convert_opset(weighted(nodes, {}, 17), 10)


def test_bodies_of_control_flow_are_checked() -> None:
    def body(name: str, operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["x"], [name])
        return helper.make_graph(
            [node], name, [], [helper.make_tensor_value_info(name, 1, ["M", "K"])]
        )

    node = helper.make_node(
        "If", ["c"], ["y"], then_branch=body("t", "Mish"), else_branch=body("e", "Relu")
    )
    model = weighted([node], {}, 20)
    model.graph.initializer.append(numpy_helper.from_array(np.array([True]).reshape(()), "c"))
    x = np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)
    try:
        converted = convert_opset(model, 15)
    except TargetError as error:
        assert error.operator == "Mish"  # noqa: PT017 - either outcome is correct
    else:
        np.testing.assert_allclose(output(converted, x), output(model, x), rtol=1e-6)


def test_local_functions_are_inlined() -> None:
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    model = weighted([helper.make_node("Twice", ["x"], ["y"], domain="own")], {}, 20)
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    converted = convert_opset(model, 13)
    assert [node.op_type for node in converted.graph.node] == ["Add"]


def test_the_newest_opset_is_that_of_onnx() -> None:
    assert max_opset() == onnx.defs.onnx_opset_version()
