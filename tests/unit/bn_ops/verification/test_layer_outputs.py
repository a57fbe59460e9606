"""Outputs of layers are compared in front of activations, where no channel is cut off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bn_ops
from bn_ops.folding import Folded
from bn_ops.verification.layer_outputs import (
    preserved_outputs,
    shared_outputs,
    signature,
    worst_layer,
    worst_weight,
)
from tests.support.networks import GraphBuilder

CHANNELS, DEAD = 6, 3
X = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)


def network(activation: str = "Relu") -> onnx.ModelProto:
    """Return a network whose channel 3 is far below zero for every input."""
    build = GraphBuilder()
    x = build.conv("x", 3, CHANNELS)
    x = build.bn(x, CHANNELS, name="first")
    if activation:
        x = build.op(activation, x)
    y = build.op("GlobalAveragePool", build.conv(x, CHANNELS, 5))
    model = build.model([("x", ["n", 3, 8, 8])], [y])
    (layer,) = (node for node in model.graph.node if node.op_type == "BatchNormalization")
    for tensor in model.graph.initializer:
        if tensor.name == layer.input[2]:
            beta = numpy_helper.to_array(tensor).copy()
            beta[DEAD] = -1e4
            tensor.CopyFrom(numpy_helper.from_array(beta, tensor.name))
    return model


def spoiled(folded: Folded, factor: float) -> Folded:
    """Scale the dead channel of the first convolution."""
    model = onnx.ModelProto()
    model.CopyFrom(folded.model)
    name = model.graph.node[0].input[1]
    weight = folded.exact[name].copy()
    weight[DEAD] *= factor
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), name))
    return replace(folded, model=model, exact={**folded.exact, name: weight})


def test_a_fault_in_a_channel_that_is_never_active_is_detected() -> None:
    model = network()
    folded = bn_ops.fold(model)
    assert bn_ops.verify(model, folded, [X]).passed
    wrong = spoiled(folded, 2.0)
    found = bn_ops.verify(model, wrong, [X])
    # No output of the network shows it.
    assert found.max_relative_error < 1e-5
    assert found.outputs[0].exact_error is not None
    assert found.outputs[0].exact_error < 1e-12
    assert not found.passed
    (tensor,) = preserved_outputs(model)
    assert f"layer output {tensor!r}" in str(found.outputs[0].failure)


def test_only_outputs_in_front_of_an_activation_are_preserved() -> None:
    assert len(preserved_outputs(network("Sigmoid"))) == 1
    assert preserved_outputs(network("")) == []
    assert preserved_outputs(network("Abs")) == []
    model = network()
    assert shared_outputs(["none", *preserved_outputs(model)], bn_ops.fold(model).model) == (
        preserved_outputs(model)
    )


def test_signature_and_difference_by_channel() -> None:
    x = np.random.default_rng(1).normal(size=(2, 3, 4, 5))
    mean, size = signature(x)
    np.testing.assert_allclose(mean, x.mean((2, 3)))
    np.testing.assert_allclose(size, np.sqrt((x**2).mean((2, 3))))
    other = x.copy()
    other[1, 2] *= 1.01
    pairs = [signature(x), signature(x)], [signature(x), signature(other)]
    found, name = worst_layer(["a", "b"], *pairs)
    assert name == "b"
    assert found == pytest.approx(0.01, rel=1e-6)


def test_difference_of_special_values() -> None:
    zero, one = (signature(np.full((1, 2, 3), value)) for value in (0.0, 1.0))
    bad = signature(np.full((1, 2, 3), np.nan))
    assert worst_layer(["a"], [zero], [zero])[0] == 0
    assert worst_layer(["a"], [zero], [one])[0] > 1
    assert worst_layer(["a"], [one], [bad])[0] == np.inf
    # Where the unfolded model overflows, nothing is known.
    assert worst_layer(["a"], [bad], [one])[0] == 0
    assert worst_layer(["a"], [one], [signature(np.ones((1, 3, 2)))])[0] == 0


def test_weights_that_multiply_only_zeros_are_compared() -> None:
    model = network()
    folded = bn_ops.fold(model)
    assert worst_weight(model, folded.model, folded.exact)[0] < 1e-12
    found, tensor = worst_weight(model, spoiled(folded, 1.01).model, spoiled(folded, 1.01).exact)
    # Relative to the largest parameter of the channel, its shift of -1e4.
    assert 1e-7 < found < 1e-4
    assert tensor == preserved_outputs(model)[0]
    blind = replace(folded, exact={})
    assert 0 < worst_weight(model, blind.model, blind.exact)[0] < 1e-6


def test_weights_without_a_formula_are_left_out() -> None:
    build = GraphBuilder()
    x = build.op("Relu", build.bn(build.conv(build.op("Neg", "x"), 3, 4), 4))
    model = build.model([("x", ["n", 3, 8, 8])], [x])
    folded = bn_ops.fold(model)
    # The convolution reads neither an input nor an activation.
    assert worst_weight(model, folded.model, folded.exact) == (0.0, "")
    linear = network("")
    assert worst_weight(linear, bn_ops.fold(linear).model, {}) == (0.0, "")


def test_weights_behind_padding_are_compared() -> None:
    build = GraphBuilder()
    pads = build.tensor(np.array([0, 0, 0, 0, 0, 0, 1, 1]), "pads")
    x = build.op("Pad", build.op("Relu", "x"), pads)
    x = build.op("Relu", build.bn(build.conv(x, 3, CHANNELS), CHANNELS))
    model = build.model([("x", ["n", 3, 8, 8])], [x])
    folded = bn_ops.fold(model)
    name = next(node for node in folded.model.graph.node if node.op_type == "Conv").input[1]
    wrong = {**folded.exact, name: 1.5 * folded.exact[name]}
    assert worst_weight(model, folded.model, folded.exact)[0] < 1e-12
    assert worst_weight(model, folded.model, wrong)[0] > 0.01
