"""Filters of operators, their norms, and dividing them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bn_ops.batchnorm_insertion.filters import Filters, FiltersReader, filter_norms
from bn_ops.batchnorm_insertion.sites import find_sites
from bn_ops.engines.onnx.graph import index_graph
from tests.support.onnx_run import run_onnx

Floats = NDArray[np.float32]


def array(*shape: int) -> Floats:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """An operator with its weights, and its filters as rows of a matrix."""

    nodes: Sequence[onnx.NodeProto]
    weights: Mapping[str, Floats]
    rows: Callable[[Floats], Floats]
    maps: bool = True

    def model(self, **changed: Floats) -> onnx.ModelProto:
        """Return the operator, an activation and a head."""
        weights = {**self.weights, **changed}
        channels = len(self.rows(weights["w"]))
        head = array(2, channels, 1, 1) if self.maps else array(channels, 2)
        kind = "Conv" if self.maps else "MatMul"
        sizes: list[str | int | None] = ["n", 3, 5, 5] if self.maps else ["n", 3]
        return helper.make_model(
            helper.make_graph(
                [
                    *self.nodes,
                    helper.make_node("Relu", [self.nodes[-1].output[0]], ["r"]),
                    helper.make_node(kind, ["r", "head"], ["y"]),
                ],
                "graph",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
                [numpy_helper.from_array(v, n) for n, v in {**weights, "head": head}.items()],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )


def found(model: onnx.ModelProto) -> tuple[Filters | None, str]:
    index = index_graph(model.graph)
    site = find_sites(index)[0][0]
    return FiltersReader(index).find(site), site.tensor


CASES = {
    "conv": Case(
        [helper.make_node("Conv", ["x", "w", "b"], ["t"])],
        {"w": array(4, 3, 3, 3), "b": array(4)},
        lambda w: w.reshape(4, -1),
    ),
    "conv without bias, bias in Add": Case(
        [helper.make_node("Conv", ["x", "w"], ["p"]), helper.make_node("Add", ["c", "p"], ["t"])],
        {"w": array(4, 3, 3, 3), "c": array(1, 4, 1, 1)},
        lambda w: w.reshape(4, -1),
    ),
    "transposed conv": Case(
        [helper.make_node("ConvTranspose", ["x", "w", "b"], ["t"])],
        {"w": array(3, 4, 2, 2), "b": array(4)},
        lambda w: w.transpose(1, 0, 2, 3).reshape(4, -1),
    ),
    "gemm": Case(
        [helper.make_node("Gemm", ["x", "w", "b"], ["t"], alpha=0.5)],
        {"w": array(3, 4), "b": array(1, 4)},
        lambda w: w.T * np.float32(0.5),
        maps=False,
    ),
    "gemm, transposed": Case(
        [helper.make_node("Gemm", ["x", "w"], ["t"], transB=1)],
        {"w": array(4, 3)},
        lambda w: w,
        maps=False,
    ),
    "matmul": Case(
        [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["t"])],
        {"w": array(3, 4), "b": array(4)},
        lambda w: w.T,
        maps=False,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_norms_and_division(name: str) -> None:
    case = CASES[name]
    model = case.model()
    filters, tensor = found(model)
    assert filters is not None
    rows = case.rows(case.weights["w"]).astype(np.float64)
    expected = np.sqrt((rows**2).sum(1))
    np.testing.assert_allclose(filters.norms, expected, rtol=1e-12)
    assert not filters.depthwise

    scales = np.array([0.25, 1.0, 2.0**-20, 8.0])
    x = array(3, 3, 5, 5) if case.maps else array(3, 3)
    model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    before = run_onnx(model, {"x": x})[1]
    filters.divide(model, scales)
    after = run_onnx(model, {"x": x})[1]
    shape = (4, 1, 1) if case.maps else (4,)
    np.testing.assert_array_equal(after * scales.reshape(shape), before.astype(np.float64))


def test_scales_are_powers_of_two() -> None:
    weights = CASES["conv"].weights["w"].copy()
    weights[3] = 0
    filters, _ = found(CASES["conv"].model(w=weights))
    assert filters is not None
    scales = filters.scales(0.5)
    ratio = filters.norms[:3] / scales[:3] / 0.5
    assert (ratio >= 2**-0.5).all()
    assert (ratio <= 2**0.5).all()
    assert np.log2(scales).tolist() == np.round(np.log2(scales)).tolist()
    assert scales[3] == 1


def _shared(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["w"], ["more"]))


def _overridable(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))


def _not_finite(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.full((4, 3, 3, 3), np.inf, np.float32), "w")
    )


def test_depthwise_filters() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["t"], group=3)
    filters, _ = found(Case([node], {"w": array(3, 1, 2, 2)}, lambda w: w.reshape(3, -1)).model())
    assert filters is not None
    assert filters.depthwise


@pytest.mark.parametrize("change", [_shared, _overridable, _not_finite])
def test_filters_that_cannot_be_divided(change: Callable[[onnx.ModelProto], None]) -> None:
    model = CASES["conv"].model()
    assert found(model)[0] is not None
    change(model)
    assert found(model)[0] is None


def test_grouped_transposed_conv_is_left() -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["t"], group=3)
    case = Case([node], {"w": array(3, 2, 2, 2)}, lambda w: w.reshape(6, -1))
    assert found(case.model())[0] is None


def filters_of(norms: NDArray[np.float64], *, depthwise: bool = True) -> Filters:
    return Filters(weight="w", axis=0, biases=(), norms=norms, depthwise=depthwise)


def test_norm_is_the_assumed_one_without_evidence() -> None:
    # ε is so small that no norm changes a gain.
    layers = [
        (filters_of(np.full(8, 3.0), depthwise=depthwise), np.full(8, 2.0))
        for depthwise in (True, False)
    ]
    assert filter_norms(layers, eps=1e-12) == pytest.approx([0.1**0.5, 1.0], rel=1e-9)
    assert filter_norms([], eps=1e-5) == ()


def test_norm_of_a_layer_whose_variance_is_below_eps() -> None:
    # Depthwise layers with γ = 0.3, whose filters have the assumed norm, except in the last one: it
    # is far below, so that ε outweighs the variance there.
    eps, gamma, q = 1e-5, 0.3, 0.01
    norms = 0.1**0.5 * np.array([1, 1, 1, 1, 0.1])
    variances = q * norms**2
    variances[-1] = 2e-7
    gains = gamma / np.sqrt(variances + eps)
    layers = [
        (filters_of(np.full(16, norm * gain)), np.full(16, gain**2 * variance))
        for norm, gain, variance in zip(norms, gains, variances, strict=True)
    ]
    estimated = filter_norms(layers, eps=eps)
    assert estimated[:4] == pytest.approx(norms[:4], rel=0.05)
    # Known only from γ: the norm comes out within a factor of 3, not of 10.
    assert norms[-1] / 3 < estimated[-1] < norms[-1] * 3
