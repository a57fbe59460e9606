"""Two models on the same samples: which output is a head, and what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bn_ops.predictions import compare_heads

MODEL = Path(__file__).parents[3] / "examples" / "digits" / "mnist_resnet.onnx"


def scaled(factor: float, *, classes: int = 3, softmax: bool = False) -> onnx.ModelProto:
    """Logits are the input times a factor; a feature map comes first and is no head."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axis"], ["map"]),
        helper.make_node("Mul", ["x", "factor"], ["logits" if not softmax else "raw"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["raw"], ["logits"], axis=1))
    graph = helper.make_graph(
        nodes,
        "scaled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", classes])],
        [
            helper.make_tensor_value_info("map", TensorProto.FLOAT, ["n", classes, 1]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes]),
        ],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [2]),
            helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor]),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9)


@pytest.mark.parametrize("softmax", [False, True])
def test_the_first_table_of_classes_is_the_head_logits_or_probabilities(*, softmax: bool) -> None:
    x = np.random.default_rng(0).normal(0, 2, (20, 3)).astype(np.float32)
    batches = [{"x": x[:7]}, {"x": x[7:]}]
    found = compare_heads(scaled(1, softmax=softmax), scaled(-1, softmax=softmax), batches)
    assert found is not None
    assert (found.output, found.samples, found.classes) == ("logits", 20, 3)
    assert found.agreement == 0

    def entropy(z: np.ndarray) -> float:
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return float(-(p * np.log(p)).sum(axis=1).mean())

    wide = x.astype(np.float64)
    # float32 softmax.
    assert found.entropy_change == pytest.approx(entropy(-wide) - entropy(wide), abs=1e-5)


def test_a_model_without_a_head_has_nothing_to_compare() -> None:
    x = np.ones((4, 1), np.float32)
    assert compare_heads(scaled(1, classes=1), scaled(1, classes=1), [{"x": x}]) is None
    assert compare_heads(scaled(1), scaled(1), []) is None


def test_the_same_network_agrees_with_itself() -> None:
    model = onnx.load(MODEL)
    images = np.random.default_rng(0).random((16, 1, 28, 28), dtype=np.float32)
    found = compare_heads(model, model, [{model.graph.input[0].name: images}])
    assert found is not None
    assert found.agreement == 1
    assert found.entropy_change == 0
    assert not found.less_certain
    assert not found.collapsed
