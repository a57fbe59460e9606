"""Inserted BatchNorm layers: equivalent outputs, and recalibration as in the unfolded network."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import bn_ops
from bn_ops.errors import (
    ModelAlreadyFoldedError,
    ModelUnsupportedError,
    OptionError,
    StreamEmptyError,
)
from tests.support.onnx_run import run_onnx

# ε of the layers: far below every variance, where the scale of the filters does not matter.
EPS = 1e-12


class Residual(nn.Module):
    """Stem, a residual block, a depthwise and a pointwise convolution, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8, eps=EPS)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8, eps=EPS)
        self.conv3 = nn.Conv2d(8, 8, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(8, eps=EPS)
        self.hidden = nn.Linear(8, 6)
        self.bn4 = nn.BatchNorm1d(6, eps=EPS)
        self.head = nn.Linear(6, 4)
        for bn in (self.bn1, self.bn2, self.bn3, self.bn4):
            nn.init.uniform_(bn.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(bn.bias, 0, 0.5, generator=generator)
            with torch.no_grad():
                # The law must also hold for negative scales.
                bn.weight[0] *= -1

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(x)))))
        x = torch.relu(x + y).mean((2, 3))
        scores: Tensor = self.head(torch.relu(self.bn4(self.hidden(x))))
        return scores


def images(seed: int, samples: int = 40) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(samples, 3, 4, 4)).repeat(3, axis=2).repeat(3, axis=3)
    return (smooth + 0.5 * rng.normal(size=smooth.shape)).astype(np.float32)


SOURCE = images(0)
TARGET = images(1) * np.float32(0.4) + np.float32(0.7)


def source_network() -> Residual:
    """Return the network with the exact statistics of the source stream."""
    torch.manual_seed(0)
    module = Residual()
    module.eval()
    bn_ops.recalibrate(module, [SOURCE])
    return module


def oracle(module: nn.Module, batch: NDArray[np.float32]) -> NDArray[np.float64]:
    """Run in float64 and train mode: layers normalize with the moments of the whole batch."""
    wide = copy.deepcopy(module).double().train()
    with torch.no_grad():
        return np.asarray(wide(torch.from_numpy(batch).double()).numpy())


def outputs(model: onnx.ModelProto, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    (found,) = run_onnx(model, {model.graph.input[0].name: batch})
    return found.astype(np.float32)


@cache
def unfolded() -> onnx.ModelProto:
    return bn_ops.export(source_network(), (torch.from_numpy(SOURCE[:2]),))


@cache
def folded() -> onnx.ModelProto:
    result = bn_ops.fold(unfolded())
    assert not result.kept
    return result.model


def test_recalibration_equals_unfolded_network() -> None:
    inserted = bn_ops.insert_batchnorm(folded(), [SOURCE[:7], SOURCE[7:]], eps=EPS)
    assert len(inserted.layers) == 4
    adapted = bn_ops.adapt(inserted.model, [TARGET], estimator="replace")
    expected = oracle(source_network(), TARGET)
    for model in (adapted.model, adapted.unfolded):
        found = outputs(model, TARGET)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def large_eps_network() -> Residual:
    """Return a network whose ε outweighs many variances, with filters of the assumed norm.

    Folding multiplies each filter by a power of two, so that it can be divided out exactly.
    """
    module = source_network()
    pairs = (
        (module.conv1, module.bn1),
        (module.conv2, module.bn2),
        (module.conv3, module.bn3),
        (module.hidden, module.bn4),
    )
    with torch.no_grad():
        for operator, bn in pairs:
            rows = operator.weight.flatten(1)
            norm = 0.1**0.5 if operator is module.conv2 else 1.0
            operator.weight.mul_(
                (norm / rows.norm(dim=1)).view(-1, *[1] * (operator.weight.ndim - 1))
            )
            bn.eps = LARGE_EPS
            bn_ops.recalibrate(module, [SOURCE])
            assert bn.running_var is not None
            width = torch.sqrt(bn.running_var.double() + bn.eps)
            bn.weight.copy_(width * torch.exp2(torch.round(-torch.log2(width))))
    bn_ops.recalibrate(module, [SOURCE])
    return module


LARGE_EPS = 0.05


def test_eps_of_the_folded_layers() -> None:
    module = large_eps_network()
    assert module.bn2.running_var is not None
    assert module.bn2.running_var.median() < LARGE_EPS
    model = bn_ops.fold(bn_ops.export(module, (torch.from_numpy(SOURCE[:2]),))).model
    expected = oracle(module, TARGET)
    scale = np.abs(expected).max()

    def difference(eps: float) -> float:
        inserted = bn_ops.insert_batchnorm(model, [SOURCE], eps=eps)
        done = bn_ops.recalibrate(inserted.model, [TARGET])
        return float(np.abs(outputs(done.model, TARGET) - expected).max() / scale)

    assert difference(LARGE_EPS) < 5e-5
    assert difference(1e-9) > 0.05


@pytest.mark.parametrize("eps", [0.0, -1e-5, 1.0, float("nan")])
def test_invalid_eps(eps: float) -> None:
    with pytest.raises(OptionError, match="eps is"):
        bn_ops.insert_batchnorm(folded(), [SOURCE], eps=eps)


def test_outputs_are_unchanged() -> None:
    model = folded()
    inserted = bn_ops.insert_batchnorm(model, [SOURCE])
    before, after = outputs(model, TARGET), outputs(inserted.model, TARGET)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    assert inserted.parity.passed
    assert inserted.parity.reference == "float64"


def test_statistics_equal_source_moments() -> None:
    inserted = bn_ops.insert_batchnorm(folded(), [SOURCE])
    network = source_network()
    network.double()
    with torch.no_grad():
        z = network.bn1(network.conv1(torch.from_numpy(SOURCE).double())).numpy()
    (first, *_) = bn_ops.describe(inserted.model).layers
    assert first.statistics is not None
    # Filters are divided by powers of two, and the moments with them.
    scales = np.sqrt(z.var((0, 2, 3)) / first.statistics.var)
    np.testing.assert_allclose(np.log2(scales), np.round(np.log2(scales)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        first.statistics.mean * scales, z.mean((0, 2, 3)), rtol=1e-5, atol=1e-6
    )


def test_model_unchanged_and_any_batch_order() -> None:
    model = folded()
    before = model.SerializeToString(deterministic=True)
    one = bn_ops.insert_batchnorm(model, [SOURCE])
    other = bn_ops.insert_batchnorm(model, [SOURCE[:1], SOURCE[1:]])
    assert model.SerializeToString(deterministic=True) == before
    assert one.model == other.model


def test_head_without_layer() -> None:
    inserted = bn_ops.insert_batchnorm(folded(), [SOURCE])
    assert [left.reason for left in inserted.left] == [
        "the network's head: no weighted operator follows"
    ]


def test_dead_channel_stays_constant() -> None:
    module = source_network()
    with torch.no_grad():
        module.conv1.weight[2] = 0
    bn_ops.recalibrate(module, [SOURCE])
    model = bn_ops.fold(bn_ops.export(module, (torch.from_numpy(SOURCE[:2]),))).model
    inserted = bn_ops.insert_batchnorm(model, [SOURCE], eps=EPS)
    assert inserted.layers[0].dead == (2,)
    before = outputs(model, SOURCE)
    np.testing.assert_allclose(
        outputs(inserted.model, SOURCE), before, rtol=0, atol=1e-5 * np.abs(before).max()
    )
    done = bn_ops.recalibrate(inserted.model, [TARGET])
    assert done.report.layers[0].dead_channels == (2,)
    expected = oracle(module, TARGET)
    found = outputs(done.model, TARGET)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def graph(nodes: list[onnx.NodeProto], **weights: NDArray[np.float32]) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def matrix(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_bias_in_separate_node() -> None:
    model = graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="first"),
            helper.make_node("Add", ["p", "b"], ["q"], name="bias"),
            helper.make_node("Relu", ["q"], ["r"]),
            helper.make_node("MatMul", ["r", "v"], ["y"], name="head"),
        ],
        w=matrix(3, 5),
        b=matrix(5),
        v=matrix(5, 2),
    )
    x = matrix(20, 3)
    inserted = bn_ops.insert_batchnorm(model, [x])
    assert [node.op_type for node in inserted.model.graph.node] == [
        "MatMul",
        "Add",
        "BatchNormalization",
        "Relu",
        "MatMul",
    ]
    wide = x.astype(np.float64) @ matrix(3, 5).astype(np.float64) + matrix(5)
    (layer,) = bn_ops.describe(inserted.model).layers
    assert layer.statistics is not None
    scales = np.sqrt(wide.var(0) / layer.statistics.var)
    np.testing.assert_allclose(np.log2(scales), np.round(np.log2(scales)), rtol=0, atol=1e-5)


def test_product_without_activation() -> None:
    model = graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["p"], name="first"),
            helper.make_node("MatMul", ["p", "v"], ["y"], name="head"),
        ],
        w=matrix(3, 5),
        v=matrix(5, 2),
    )
    with pytest.raises(ModelUnsupportedError, match="no activation follows"):
        bn_ops.insert_batchnorm(model, [matrix(4, 3)])


def test_existing_layer_is_not_duplicated() -> None:
    with pytest.raises(ModelUnsupportedError, match="follows already"):
        bn_ops.insert_batchnorm(unfolded(), [SOURCE])


def test_source_samples_are_required() -> None:
    with pytest.raises(StreamEmptyError):
        bn_ops.insert_batchnorm(folded(), [])


def test_module_is_rejected() -> None:
    with pytest.raises(OptionError, match=r"bn_ops\.export"):
        bn_ops.insert_batchnorm(source_network(), [SOURCE])


def test_source_batches_insert_before_a_run() -> None:
    explicit = bn_ops.adapt(bn_ops.insert_batchnorm(folded(), [SOURCE]).model, [TARGET])
    found = bn_ops.adapt(folded(), [TARGET], source_batches=[SOURCE])
    assert found.model.graph == explicit.model.graph
    with pytest.raises(OptionError, match="source_batches"):
        bn_ops.recalibrate(source_network(), [TARGET], source_batches=[SOURCE])


def test_folded_model_is_rejected() -> None:
    with pytest.raises(ModelAlreadyFoldedError, match="source_batches="):
        bn_ops.recalibrate(folded(), [TARGET])
