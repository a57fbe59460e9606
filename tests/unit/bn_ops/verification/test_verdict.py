"""Parity decisions: passing and failing models, and the notes of the result."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bn_ops.errors import BatchInputError, EngineError, OptionError
from bn_ops.folding import fold
from bn_ops.verification import verify
from tests.conformance.fold.building import Array, Graph


def _network(dtype: str = "float32", batch: int | str = "N") -> onnx.ModelProto:
    graph = Graph("network", dtype=dtype)
    x = graph.input("x", (batch, 3, 8, 8))
    y = graph.add("Relu", graph.bn(graph.conv(x, (3, 6)), 6, "first"))
    y = graph.bn(graph.conv(y, (6, 4)), 4, "second")
    y = graph.add("Flatten", graph.add("GlobalAveragePool", y))
    graph.output(graph.add("Gemm", y, graph.store(graph.array(4, 5), "head")))
    return graph.model()


def _batch(samples: int = 4, dtype: str = "float32") -> Array:
    return np.random.default_rng(0).standard_normal((samples, 3, 8, 8)).astype(dtype)


def _with(model: onnx.ModelProto, name: str, array: Array) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(array, name))
    return changed


def _stored(model: onnx.ModelProto, name: str) -> Array:
    return next(numpy_helper.to_array(t).copy() for t in model.graph.initializer if t.name == name)


def test_correct_fold_passes() -> None:
    model = _network()
    parity = verify(model, fold(model).model, [_batch(4), _batch(2)])
    assert parity.passed
    assert parity.reference == "float64"
    assert parity.samples == 6
    assert parity.tolerance == 1e-5
    assert parity.max_relative_error <= 1e-6
    assert parity.notes == ()
    (output,) = parity.outputs
    assert output.rounding is not None
    assert output.rounding <= 1e-6


def test_weight_off_by_a_thousandth_fails() -> None:
    model = _network()
    head = _stored(model, "head")
    head[0, 0] *= 1.001
    parity = verify(model, _with(model, "head", head), [_batch()])
    assert not parity.passed
    assert not parity.outputs[0].passed
    assert 1e-5 < parity.max_relative_error < 1e-2


def test_fault_at_large_inputs() -> None:
    clipped = Graph("clipped")
    x = clipped.input("x", ("N", 3))
    low, high = clipped.store(np.array(-20.0)), clipped.store(np.array(20.0))
    clipped.output(clipped.add("Clip", x, low, high, out="y"))
    whole = Graph("whole")
    whole.output(whole.add("Identity", whole.input("x", ("N", 3)), out="y"))
    parity = verify(whole.model(), clipped.model(), [np.ones((2, 3), dtype=np.float32)])
    assert not parity.passed
    assert "scaled by 100" in parity.outputs[0].worst_samples


def test_fault_at_zero_inputs() -> None:
    model = Graph("plain")
    model.output(model.add("Identity", model.input("x", ("N", 3)), out="y"))
    other = Graph("other")
    x = other.input("x", ("N", 3))
    ratio = other.add("Div", other.add("Mul", x, x), x)
    other.output(other.add("Identity", ratio, out="y"))
    parity = verify(model.model(), other.model(), [np.ones((2, 3), dtype=np.float32)])
    assert parity.outputs[0].worst_samples == "zeros"
    assert math.isinf(parity.max_relative_error)


def test_nan_positions_must_match() -> None:
    model = Graph("logarithm")
    model.output(model.add("Log", model.input("x", ("N", 3)), out="y"))
    assert verify(model.model(), model.model(), [np.ones((2, 3), dtype=np.float32)]).passed
    other = Graph("logarithm of magnitudes")
    x = other.input("x", ("N", 3))
    other.output(other.add("Log", other.add("Abs", x), out="y"))
    assert not verify(model.model(), other.model(), [np.ones((2, 3), dtype=np.float32)]).passed


def test_float16_tolerance() -> None:
    model = _network("float16")
    parity = verify(model, fold(model).model, [_batch(dtype="float16")])
    assert parity.tolerance == 2e-3
    assert parity.passed


def test_float64_tolerance() -> None:
    graph = Graph("double", dtype="float64")
    x = graph.input("x", ("N", 6))
    graph.output(graph.bn(graph.add("Gemm", x, graph.store(graph.array(6, 5))), 5))
    model = graph.model()
    parity = verify(model, fold(model).model, [np.random.default_rng(0).standard_normal((4, 6))])
    assert parity.tolerance == 1e-12
    assert parity.passed


def test_output_near_zero() -> None:
    graph = Graph("detector")
    x = graph.input("x", ("N", 3, 8, 8))
    y = graph.bn(graph.conv(x, (3, 4)), 4)
    graph.output(graph.add("Sigmoid", graph.add("Sub", y, graph.store(np.array(11.0)))))
    model = graph.model()
    parity = verify(model, fold(model).model, [0.1 * _batch()])
    (output,) = parity.outputs
    assert output.rounding is not None
    assert parity.tolerance < output.max_relative_error <= 4 * output.rounding
    assert parity.passed


def test_difference_beyond_rounding_fails() -> None:
    graph = Graph("detector")
    x = graph.input("x", ("N", 3, 8, 8))
    y = graph.bn(graph.conv(x, (3, 4)), 4)
    graph.output(graph.add("Sigmoid", graph.add("Sub", y, graph.store(np.array(11.0)))))
    model = graph.model()
    wrong = _with(model, "bn.beta", _stored(model, "bn.beta") + np.float32(0.05))
    assert not verify(model, wrong, [0.1 * _batch()]).passed


def test_explicit_tolerance() -> None:
    model = _network()
    assert not verify(model, fold(model).model, [_batch()], tolerance=1e-12).passed


def test_fixed_batch_size() -> None:
    model = _network(batch=3)
    parity = verify(model, fold(model).model, [_batch(4)])
    assert parity.passed
    assert parity.samples == 4


def test_without_batches() -> None:
    parity = verify(_network(), fold(_network()).model, [])
    assert parity.passed
    assert parity.samples == 0


def test_integers_stay_in_range() -> None:
    graph = Graph("embedding")
    index = graph.input("index", ("N", 4), "int64")
    rows = graph.add("Gather", graph.store(graph.array(7, 3)), index)
    graph.output(rows, ("N", 4, 3))
    batch = {"index": np.array([[6, 0, 3, 1]])}
    parity = verify(graph.model(), graph.model(), [batch])
    assert parity.passed
    assert parity.notes == ()


def test_rejected_probes_are_noted() -> None:
    graph = Graph("fragile")
    x, index = graph.input("x", ("N", 4)), graph.input("index", ("N",), "int64")
    graph.output(graph.add("Gather", graph.add("Relu", x), index), ("N", 4))
    batch = {"x": np.ones((3, 4), dtype=np.float32), "index": np.array([2, 2, 2])}
    parity = verify(graph.model(), graph.model(), [batch])
    assert parity.passed
    assert any("skipped" in note for note in parity.notes)


def test_rejected_batch_raises() -> None:
    graph = Graph("embedding")
    rows = graph.add("Gather", graph.store(graph.array(2, 3)), graph.input("i", ("N",), "int64"))
    graph.output(rows, ("N", 3))
    with pytest.raises(EngineError):
        verify(graph.model(), graph.model(), [np.array([5])])


def test_discrete_outputs_may_differ_slightly() -> None:
    graph = Graph("labels")
    x = graph.input("x", ("N", 6))
    y = graph.bn(graph.add("Gemm", x, graph.store(graph.array(6, 5))), 5)
    graph.output(graph.add("ArgMax", y, axis=1, keepdims=0), ("N",), "int64")
    model = graph.model()
    batch = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
    assert verify(model, fold(model).model, [batch]).passed
    negated = _with(model, "bn.gamma", -_stored(model, "bn.gamma"))
    assert not verify(model, negated, [batch]).passed


def test_random_operators() -> None:
    graph = Graph("random")
    x = graph.input("x", ("N", 4))
    graph.output(graph.add("Add", x, graph.add("RandomNormalLike", x)))
    parity = verify(graph.model(), graph.model(), [np.ones((2, 4), dtype=np.float32)])
    assert parity.reference == "native"
    assert "RandomNormalLike" in parity.notes[0]


def test_different_inputs_or_outputs() -> None:
    graph = Graph("other")
    graph.output(graph.add("Relu", graph.input("x", ("N", 3, 8, 8))))
    with pytest.raises(OptionError, match="differ in inputs or outputs"):
        verify(_network(), graph.model(), [_batch()])


def test_batch_with_wrong_input() -> None:
    with pytest.raises(BatchInputError):
        verify(_network(), _network(), [{"y": _batch()}])


def test_deterministic_seed() -> None:
    model = _network()
    folded = fold(model).model
    assert verify(model, folded, [_batch()], seed=7) == verify(model, folded, [_batch()], seed=7)


def test_json_with_infinite_error() -> None:
    model = _network()
    broken = _with(model, "head", np.full((4, 5), np.nan, dtype=np.float32))
    parity = verify(model, broken, [_batch()])
    text = json.dumps(parity.to_json(), allow_nan=False)
    assert json.loads(text)["max_relative_error"] is None
    assert json.loads(text)["passed"] is False
