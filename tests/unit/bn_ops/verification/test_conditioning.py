"""Networks that amplify rounding errors: correct folds pass, wrong folds are found and named."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bn_ops.folding import Folded, fold
from bn_ops.folding.rules import RULES
from bn_ops.folding.run import fold_with
from bn_ops.verification import Parity, fold_verified, verify
from bn_ops.verification.bisection import fold_while_verified
from bn_ops.verification.reference import Reference
from bn_ops.verification.rounding_sensitivity import perturb_batch, perturb_model
from tests.conformance.fold.building import Graph
from tests.support.fold_faults import FAULTS, FaultyConv, Spoil

if TYPE_CHECKING:
    from collections.abc import Mapping

LAYERS = 10
CHANNELS = 6
BATCH = np.random.default_rng(0).standard_normal((4, CHANNELS, 8, 8)).astype(np.float32)


@cache
def amplifying() -> bytes:
    """Return a chain of layers that each remove a large offset, amplifying 1e-7 to a hundredth.

    The offset is added by the bias of the convolution and removed by the running mean, so the
    float32 rounding at the offset remains, and every layer multiplies it.
    """
    graph = Graph("amplifying")
    y = graph.input("x", ("N", CHANNELS, 8, 8))
    for number in range(LAYERS):
        weight = graph.store(0.4 * graph.array(CHANNELS, CHANNELS, 3, 3))
        offset = graph.store(np.full(CHANNELS, 100.0))
        conv = graph.add("Conv", y, weight, offset, name=f"conv{number}", pads=[1, 1, 1, 1])
        y = graph.add("Tanh", _steep(graph, conv, f"layer{number}"))
    graph.output(y)
    return bytes(graph.model().SerializeToString())


def _steep(graph: Graph, x: str, name: str) -> str:
    normalized = [
        graph.store(graph.random.uniform(2.0, 3.0, CHANNELS), f"{name}.gamma"),
        graph.store(0.1 * graph.array(CHANNELS), f"{name}.beta"),
        graph.store(100.0 + 0.1 * graph.array(CHANNELS), f"{name}.mean"),
        graph.store(graph.random.uniform(0.5, 2.0, CHANNELS), f"{name}.var"),
    ]
    return graph.add("BatchNormalization", x, *normalized, name=name, epsilon=1e-3)


def _model() -> onnx.ModelProto:
    return onnx.load_model_from_string(amplifying())


@cache
def reference() -> Reference:
    return Reference(_model(), [BATCH], threads=1, seed=0)


def test_correct_fold_passes() -> None:
    folded, parity = fold_verified(_model(), [BATCH])
    assert not folded.kept
    assert parity.passed
    (output,) = parity.outputs
    assert output.rounding is not None
    assert output.exact_error is not None
    # Far above the tolerance of a well-conditioned network, folded or not …
    assert parity.max_relative_error > 100 * parity.tolerance
    assert output.rounding > 100 * parity.tolerance
    assert parity.max_relative_error <= output.allowed <= 16 * output.rounding
    # … but equivalent in float64.
    assert output.exact_error <= 1e-9


def test_folded_file_passes() -> None:
    model = _model()
    parity = verify(model, fold(model).model, [BATCH])
    assert parity.passed
    assert parity.exact_error is not None
    assert parity.exact_error <= 1e-9


def test_partly_folded_file_passes() -> None:
    model = _model()
    some = fold(model, skip={"layer3": "as a test", "layer7": "as a test"})
    parity = verify(model, some.model, [BATCH])
    assert parity.passed
    assert parity.exact_error is not None


def test_explicit_tolerance_is_not_widened() -> None:
    model = _model()
    assert not verify(model, fold(model), [BATCH], tolerance=1e-5).passed


@pytest.mark.parametrize("layer", [0, LAYERS // 2, LAYERS - 1])
@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_wrong_fold_is_localized(spoil: Spoil, layer: int) -> None:
    folded, parity = _fold_spoilt(f"conv{layer}", spoil=spoil)
    assert [entry.name for entry in folded.kept] == [f"layer{layer}"]
    reason = folded.kept[0].reason
    assert reason is not None
    assert "in float64" in reason
    assert parity.passed


def test_several_wrong_folds_are_localized() -> None:
    folded, parity = _fold_spoilt("conv1", "conv2", "conv9", spoil=FAULTS[0])
    assert [entry.name for entry in folded.kept] == ["layer1", "layer2", "layer9"]
    assert parity.passed


def test_wrongly_written_weight_is_localized() -> None:
    def fold_but(model: onnx.ModelProto, leave: Mapping[str, str]) -> Folded:
        folded = fold(model, skip=leave)
        if "layer4" not in leave:
            weight = _weight_of(folded.model, "conv4")
            array = numpy_helper.to_array(weight).copy()
            array[0] = np.nextafter(array[0], np.float32(np.inf))
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        return folded

    folded, parity = fold_while_verified(_model(), fold_but, reference().verify)
    assert [entry.name for entry in folded.kept] == ["layer4"]
    assert "is not the rounded result of folding" in (folded.kept[0].reason or "")
    assert parity.passed


def test_limit_of_rounding_without_exact_weights() -> None:
    # A file of another tool has no exact weights, so a changed weight is only compared numerically.
    model = _model()
    other = fold(model).model
    weight = _weight_of(other, "conv0")
    array = numpy_helper.to_array(weight).copy()
    array[0] *= 1.001
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    parity = verify(model, other, [BATCH])
    (output,) = parity.outputs
    assert output.exact_error is None
    assert output.allowed <= 1e-2
    assert not parity.passed


def test_perturbation_of_weights() -> None:
    graph = Graph("perturbed")
    x = graph.input("x", ("N", 3, 4, 4))
    y = graph.conv(x, (3, 5), bias=False, weight=graph.store(graph.array(5, 3, 3, 3), "weight"))
    sizes = graph.store(np.array([1.0, 1.0, 2.0, 2.0]), "scales")
    graph.output(graph.add("Resize", y, "", sizes))
    model = graph.model()
    before = model.SerializeToString()
    moved = perturb_model(model, np.random.default_rng(0))
    assert model.SerializeToString() == before
    was, now = (_weight(m, "weight") for m in (model, moved))
    up, down = (np.nextafter(was, np.float32(end)) for end in (np.inf, -np.inf))
    assert np.all((now == up) | (now == down))
    assert 0.3 < np.mean(now == up) < 0.7
    np.testing.assert_array_equal(_weight(moved, "scales"), _weight(model, "scales"))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_zeros_and_extremes_are_not_perturbed(kind: type[np.generic]) -> None:
    dtype = np.dtype(kind)
    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    array = np.array([0.0, largest, -largest, np.inf, -np.inf, np.nan, 1.0]).astype(dtype)
    moved = perturb_batch({"x": array}, np.random.default_rng(0))["x"]
    assert moved[:-1].tobytes() == array[:-1].tobytes()
    assert moved.dtype == dtype
    assert moved[-1] != array[-1]
    indices = np.arange(4)
    assert perturb_batch({"i": indices}, np.random.default_rng(0))["i"] is indices


def _fold_spoilt(*wrong: str, spoil: Spoil) -> tuple[Folded, Parity]:
    rules = {**RULES, "Conv": FaultyConv(*wrong, spoil=spoil)}

    def fold_but(model: onnx.ModelProto, leave: Mapping[str, str]) -> Folded:
        return fold_with(model, unfolded="keep", skip=leave, rules=rules)

    return fold_while_verified(_model(), fold_but, reference().verify)


def _weight_of(model: onnx.ModelProto, node: str) -> onnx.TensorProto:
    (name,) = [n.input[1] for n in model.graph.node if n.name == node]
    found: onnx.TensorProto = next(t for t in model.graph.initializer if t.name == name)
    return found


def _weight(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)
