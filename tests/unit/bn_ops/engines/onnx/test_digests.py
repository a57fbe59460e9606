"""Digests of frozen tensors and structure: correct, and sensitive to every bit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bn_ops.diagnostics.build_report import frozen_report
from bn_ops.diagnostics.report import FrozenReport
from bn_ops.engines.onnx.engine import STRUCTURE, FrozenDigests
from bn_ops.engines.onnx.prepare import PreparedModel, prepare
from bn_ops.onnx_files.large_models import model_digest

_STATISTICS = frozenset({"mean", "var"})


def _model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)),
        "gamma": np.ones(4),
        "beta": np.zeros(4),
        "mean": np.zeros(4),
        "var": np.ones(4),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["h"], name="conv"),
            helper.make_node(
                "BatchNormalization", ["h", "gamma", "beta", "mean", "var"], ["y"], name="bn"
            ),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def _tensor(prepared: PreparedModel, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto
    (found,) = (t for t in prepared.model.graph.initializer if t.name == name)
    return found


def _report(digests: FrozenDigests) -> FrozenReport:
    return frozen_report(digests.before(), digests.after())


def _digested(change: Callable[[PreparedModel], None]) -> FrozenReport:
    source = _model()
    prepared = prepare(source)
    with FrozenDigests(source, prepared.model, _STATISTICS) as digests:
        change(prepared)
        return _report(digests)


def test_digests_of_tensors_and_source() -> None:
    source = _model()
    prepared = prepare(source)
    with FrozenDigests(source, prepared.model, _STATISTICS) as digests:
        report, whole = _report(digests), digests.source
    expected = {
        t.name: hashlib.sha256(t.SerializeToString(deterministic=True)).hexdigest()
        for t in source.graph.initializer
        if t.name not in _STATISTICS
    }
    assert {n: d for n, d in report.tensors.items() if n != STRUCTURE} == expected
    lines = "".join(f"{name}\0{digest}\n" for name, digest in sorted(report.tensors.items()))
    assert report.sha256_before == hashlib.sha256(lines.encode()).hexdigest()
    assert report.sha256_after == report.sha256_before
    assert whole == model_digest(source)


def test_statistics_may_change() -> None:
    def update(prepared: PreparedModel) -> None:
        _tensor(prepared, "mean").raw_data = np.full(4, 7, np.float32).tobytes()

    assert _digested(update).unchanged


@pytest.mark.parametrize("name", ["w", "gamma", "beta"])
def test_changed_bit_is_detected(name: str) -> None:
    def flip(prepared: PreparedModel) -> None:
        data = bytearray(_tensor(prepared, name).raw_data)
        data[-1] ^= 1
        _tensor(prepared, name).raw_data = bytes(data)

    assert not _digested(flip).unchanged


def test_tensors_of_the_copy_are_included() -> None:
    source = _model()
    prepared = prepare(source)
    prepared.model.graph.initializer.append(numpy_helper.from_array(np.ones(3), "extra"))
    with FrozenDigests(source, prepared.model, _STATISTICS) as digests:
        assert _report(digests).unchanged
        _tensor(prepared, "extra").raw_data = np.zeros(3).tobytes()
        assert not _report(digests).unchanged


@pytest.mark.parametrize(
    "change",
    [
        lambda prepared: setattr(prepared.model.graph.node[1].attribute.add(), "name", "epsilon"),
        lambda prepared: prepared.model.graph.node.pop(),
        lambda prepared: setattr(prepared.model.graph.output[0], "name", "z"),
        lambda prepared: setattr(prepared.model.opset_import[0], "version", 18),
        lambda prepared: prepared.model.graph.initializer.pop(0),
    ],
    ids=["attribute", "node", "output", "opset", "tensor removed"],
)
def test_changed_structure_is_detected(change: Callable[[PreparedModel], None]) -> None:
    assert not _digested(change).unchanged
