"""The exported model of every network of the zoo is equivalent to the module."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from bn_ops.core.layers import LayerInfo
from bn_ops.engines.onnx.describe import describe_prepared
from bn_ops.engines.onnx.prepare import prepare
from bn_ops.engines.torch import describe_module
from bn_ops.folding import fold
from tests.support.onnx_run import run_onnx
from tests.support.zoo import ZOO, Inputs, ZooNetwork
from tests.support.zoo_exports import exported_model

# Relative to the largest output value; two float32 implementations of up to thirty operators.
TOLERANCE = 1e-4

# Differs from the number of samples at export.
RUN_WITH = 5

# One xdist worker, which exports the zoo once.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("zoo")]


@pytest.mark.parametrize("network", ZOO, ids=str)
def test_exported_model_is_equivalent(network: ZooNetwork) -> None:
    model = network.build()
    proto = exported_model(network)
    inputs = network.inputs(RUN_WITH, seed=9)
    assert_computes(proto, inputs, flat_outputs(model, inputs))


@pytest.mark.parametrize("network", ZOO, ids=str)
def test_folded_model_is_equivalent(network: ZooNetwork) -> None:
    proto = exported_model(network)
    folded = fold(proto)
    layers = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    left = [node for node in folded.model.graph.node if node.op_type == "BatchNormalization"]
    assert len(folded.layers) == len(layers) > 0
    assert len(left) == len(folded.kept)
    inputs = network.inputs(RUN_WITH, seed=9)
    assert_computes(folded.model, inputs, flat_outputs(network.build(), inputs))


def assert_computes(proto: onnx.ModelProto, inputs: Inputs, wanted: dict[str, Any]) -> None:
    found = run_onnx(proto, named(proto, inputs))
    assert len(found) == len(wanted)
    for name, value in zip([o.name for o in proto.graph.output], found, strict=True):
        reference = wanted[name] if name in wanted else next(iter(wanted.values()))
        assert value.shape == reference.shape
        scale = np.abs(reference).max()
        assert np.abs(value - reference).max() <= TOLERANCE * scale


@pytest.mark.parametrize("network", ZOO, ids=str)
def test_layers_match_the_module(network: ZooNetwork) -> None:
    model = network.build()
    proto = exported_model(network)
    in_file = {layer.name: layer for layer in describe_prepared(prepare(proto)).layers}
    in_module = {layer.name: layer for layer in describe_module(model)}
    # A layer that is called again is a separate layer of the file, with a numbered name.
    assert {name.partition("#")[0] for name in in_file} == set(in_module)
    assert network.shared == any("#" in name for name in in_file)
    for name, layer in in_module.items():
        assert_same_layer(in_file[name], layer)
    tensors = {t.name for t in proto.graph.initializer}
    for name in in_file:
        assert {f"{name}.running_mean", f"{name}.running_var"} <= tensors


def assert_same_layer(found: LayerInfo, wanted: LayerInfo) -> None:
    assert found.reason is None
    assert found.channels == wanted.channels
    assert found.eps == pytest.approx(wanted.eps, rel=1e-6, abs=1e-12)
    assert found.statistics is not None
    assert wanted.statistics is not None
    np.testing.assert_array_equal(found.statistics.mean, wanted.statistics.mean)
    np.testing.assert_array_equal(found.statistics.var, wanted.statistics.var)


@pytest.mark.parametrize("network", ZOO, ids=str)
def test_no_redundant_nodes(network: ZooNetwork) -> None:
    proto = exported_model(network)
    kinds = {node.op_type for node in proto.graph.node}
    assert kinds.isdisjoint({"Identity", "Dropout", "Constant", "CastLike"})
    assert len({node.name for node in proto.graph.node}) == len(proto.graph.node)


def named(proto: onnx.ModelProto, inputs: Inputs) -> dict[str, Any]:
    values = inputs.values() if isinstance(inputs, dict) else inputs
    names = [value.name for value in proto.graph.input]
    if isinstance(inputs, dict):
        assert set(names) == set(inputs)
        return {name: tensor.numpy() for name, tensor in inputs.items()}
    return {name: tensor.numpy() for name, tensor in zip(names, values, strict=True)}


def flat_outputs(model: torch.nn.Module, inputs: Inputs) -> dict[str, Any]:
    with torch.no_grad():
        found = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    if isinstance(found, dict):
        return {name: tensor.numpy() for name, tensor in found.items()}
    return {"output": found.numpy()}
