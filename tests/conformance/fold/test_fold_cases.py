"""Each graph folds as expected, and the result is equivalent and valid."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from bn_ops.folding import Folded, fold
from bn_ops.onnx_files.session import session
from bn_ops.verification.decision import misrounded_tensor
from bn_ops.verification.float64 import Float64Model, NotExactError
from tests.conformance.fold.all_cases import ALL_CASES
from tests.conformance.fold.building import FOLDED, Array, Case

# Relative to the largest value: two summation orders in float64.
EXACT = 1e-12


@pytest.fixture(scope="module", params=ALL_CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="module")
def model(case: Case) -> onnx.ModelProto:
    return case.build()


@pytest.fixture(scope="module")
def folded(model: onnx.ModelProto) -> Folded:
    return fold(model)


def test_expected_rules_and_reasons(case: Case, folded: Folded) -> None:
    assert {layer.name for layer in folded.layers} == set(case.expect)
    for layer in folded.layers:
        expected = case.expect[layer.name]
        if expected.startswith(FOLDED):
            assert (layer.status, layer.rule) == (FOLDED, expected.partition(":")[2]), layer.reason
        else:
            assert layer.status == "kept"
            assert layer.reason is not None
            assert expected in layer.reason


def test_equivalent_in_onnxruntime(case: Case, model: onnx.ModelProto, folded: Folded) -> None:
    if not case.runs:
        pytest.skip("onnxruntime has no kernels for this graph")
    for batch in case.batches(model):
        wants, gots = _run(model, batch), _run(folded.model, batch)
        for want, got in zip(wants, gots, strict=True):
            assert got.dtype == want.dtype
            assert got.shape == want.shape
            assert _error(got, want) <= case.tolerance


def test_equivalent_in_float64(case: Case, model: onnx.ModelProto, folded: Folded) -> None:
    assert misrounded_tensor(folded.model, folded.exact) is None
    names = [output.name for output in model.graph.output]
    try:
        unrounded = Float64Model(folded.model, folded.exact)
        for batch in case.batches(model)[:1]:
            wants, gots = Float64Model(model).run(names, batch), unrounded.run(names, batch)
            for want, got in zip(wants, gots, strict=True):
                assert _error(got, want) <= EXACT
    except NotExactError as reason:
        pytest.skip(f"no float64 form: {reason}")


def test_valid_model(case: Case, folded: Folded) -> None:
    if not case.valid:
        pytest.skip("the original model is invalid")
    onnx.checker.check_model(folded.model, full_check=True)


def test_idempotent(folded: Folded) -> None:
    again = fold(folded.model)
    assert again.model.SerializeToString() == folded.model.SerializeToString()


def test_deterministic(case: Case, folded: Folded) -> None:
    again = fold(case.build())
    assert again.model.SerializeToString() == folded.model.SerializeToString()


def test_node_count(case: Case, model: onnx.ModelProto, folded: Folded) -> None:
    if not model.functions:
        assert len(folded.model.graph.node) <= len(model.graph.node)
    if case.nodes is not None:
        assert len(folded.model.graph.node) == case.nodes


def test_original_model_unchanged(case: Case, model: onnx.ModelProto, folded: Folded) -> None:
    assert folded.model is not model
    assert case.build() == model


def test_inputs_and_outputs_unchanged(model: onnx.ModelProto, folded: Folded) -> None:
    stored = {tensor.name for tensor in model.graph.initializer} if model.ir_version < 4 else set()
    assert [v for v in folded.model.graph.input if v.name not in _stored(folded.model)] == [
        v for v in model.graph.input if v.name not in _stored(model)
    ], stored
    assert list(folded.model.graph.output) == list(model.graph.output)
    assert list(folded.model.opset_import) == list(model.opset_import)


def test_no_unused_initializers(folded: Folded) -> None:
    graph = folded.model.graph
    read = {name for node in _all_nodes(graph) for name in node.input}
    read |= {value.name for value in graph.output} | {value.name for value in graph.input}
    assert {tensor.name for tensor in graph.initializer} <= read


def _stored(model: onnx.ModelProto) -> set[str]:
    if model.ir_version >= 4:
        return set()
    return {tensor.name for tensor in model.graph.initializer}


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found: list[onnx.NodeProto] = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            found += _all_nodes(attribute.g)
    return found


def _run(model: onnx.ModelProto, batch: dict[str, Array]) -> list[Any]:
    return session(model.SerializeToString(), threads=1, optimize=False).run(None, batch)


def _error(got: Array, want: Array) -> float:
    """Return the largest relative difference; non-finite values must have the same positions."""
    ours, theirs = got.astype(np.float64), want.astype(np.float64)
    assert np.array_equal(np.isfinite(ours), np.isfinite(theirs))
    finite = np.isfinite(theirs)
    scale = max(float(np.abs(theirs[finite]).max(initial=0.0)), 1e-6)
    return float(np.abs(ours[finite] - theirs[finite]).max(initial=0.0)) / scale
