"""Incorrect folds are found, undone and named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from onnx import numpy_helper

from bn_ops.errors import ParityError
from bn_ops.folding import fold
from bn_ops.folding.rules import RULES
from bn_ops.folding.run import fold_with
from bn_ops.verification import Parity, fold_verified, verify
from bn_ops.verification.bisection import fold_while_verified
from bn_ops.verification.reference import Reference
from tests.conformance.fold.building import Graph
from tests.support.fold_faults import FaultyConv

if TYPE_CHECKING:
    from collections.abc import Mapping

    import onnx

    from bn_ops.folding import Folded

LAYERS = 9
BATCH = np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)


def _chain() -> onnx.ModelProto:
    graph = Graph("chain")
    y = graph.input("x", ("N", 4, 8, 8))
    for number in range(LAYERS):
        weight = graph.store(0.3 * graph.array(4, 4, 3, 3))
        conv = graph.add("Conv", y, weight, name=f"conv{number}", pads=[1, 1, 1, 1])
        y = graph.add("Tanh", graph.bn(conv, 4, f"layer{number}"))
    graph.output(y)
    return graph.model()


def _run(model: onnx.ModelProto, *wrong: str) -> tuple[Folded, Parity, int]:
    runs = 0
    reference = Reference(model, [BATCH], threads=1, seed=0)

    def fold_but(model: onnx.ModelProto, leave: Mapping[str, str]) -> Folded:
        rules = {**RULES, "Conv": FaultyConv(*wrong)}
        return fold_with(model, unfolded="keep", skip=leave, rules=rules)

    def judge(candidate: Folded) -> Parity:
        nonlocal runs
        runs += 1
        return reference.verify(candidate)

    folded, parity = fold_while_verified(model, fold_but, judge)
    return folded, parity, runs


def test_correct_fold_needs_one_comparison() -> None:
    model = _chain()
    folded, parity, runs = _run(model)
    assert (len(folded.kept), runs) == (0, 1)
    assert parity.passed


@pytest.mark.parametrize(
    "wrong", [{0}, {4}, {8}, {0, 8}, {3, 4}, {1, 4, 7}, set(range(LAYERS))], ids=str
)
def test_only_faulty_layers_are_unfolded(wrong: set[int]) -> None:
    model = _chain()
    folded, parity, _ = _run(model, *(f"conv{number}" for number in wrong))
    assert {layer.name for layer in folded.kept} == {f"layer{number}" for number in wrong}
    assert parity.passed
    assert verify(model, folded.model, [BATCH]).passed
    for layer in folded.kept:
        assert layer.reason is not None
        assert layer.reason.startswith("folding it changed the model's outputs by ")


def test_comparisons_for_one_fault() -> None:
    _, _, runs = _run(_chain(), "conv5")
    assert runs <= 2 + 2 * 4 + 1  # all and none, two halves on each of four levels, the final check


def test_unexplained_difference_raises() -> None:
    model = _chain()

    def fold_but(model: onnx.ModelProto, leave: Mapping[str, str]) -> Folded:
        folded = fold(model, skip=leave)
        for tensor in folded.model.graph.initializer:
            if len(tensor.dims) == 4:
                doubled = 2 * numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array(doubled, tensor.name))
        return folded

    with pytest.raises(ParityError, match="although no layer was folded"):
        fold_while_verified(model, fold_but, lambda other: verify(model, other, [BATCH]))


def test_unfolded_layers_are_verified_as_written() -> None:
    graph = Graph("leftover")
    x = graph.input("x", ("N", 4, 8, 8))
    graph.output(graph.add("Relu", graph.bn(x, 4)))
    folded, parity = fold_verified(graph.model(), [BATCH], unfolded="mul_add")
    assert parity.passed
    assert [node.op_type for node in folded.model.graph.node] == ["Mul", "Add", "Relu"]


def test_iterator_of_batches() -> None:
    folded, parity = fold_verified(_chain(), iter([BATCH, BATCH]))
    assert parity.samples == 4
    assert not folded.kept
