"""Two forward passes over the same samples: which output is a head, and how it shifted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest

from bn_ops.core.engine import OnLayerInput, OnOutputs
from bn_ops.diagnostics.before_after import compare_heads
from bn_ops.diagnostics.forward_pass import ForwardPass, observe

Outputs = Mapping[str, np.ndarray]


def forward_pass(*batches: Outputs) -> ForwardPass:
    def run(
        batches: Iterable[Outputs],
        *,
        on_outputs: OnOutputs,
        on_layer_input: OnLayerInput | None = None,
    ) -> None:
        del on_layer_input
        for outputs in batches:
            on_outputs(outputs)

    return observe(run, batches)


def logits(seed: int = 0, shape: Sequence[int] = (20, 3)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def probabilities(z: np.ndarray) -> np.ndarray:
    wide = np.exp(z.astype(np.float64))
    return np.asarray(wide / wide.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("softmax", [False, True])
def test_first_table_of_classes_is_the_head(*, softmax: bool) -> None:
    x = logits()

    def outputs(factor: float) -> ForwardPass:
        z = factor * x
        table = probabilities(z).astype(np.float32) if softmax else z
        return forward_pass(
            *({"map": x[part, :, None], "logits": table[part]} for part in np.split(np.r_[:20], 4))
        )

    found = compare_heads(outputs(1), outputs(-1), samples=20)
    assert found is not None
    assert (found.output, found.samples, found.classes) == ("logits", 20, 3)
    assert found.agreement == 0

    def entropy(z: np.ndarray) -> float:
        p = probabilities(z)
        return float(-(p * np.log(p)).sum(axis=1).mean())

    # float32 softmax.
    assert found.entropy_change == pytest.approx(entropy(-x) - entropy(x), abs=1e-5)


@pytest.mark.parametrize(
    ("batches", "samples"),
    [
        ([{"y": logits(shape=(4, 1))}], 4),  # one value per sample: no classes
        ([{"y": logits(shape=(4, 3, 1))}], 4),  # a spatial map
        ([{"y": np.zeros((4, 3), np.int64)}], 4),
        ([{"y": logits(shape=(4, 3))}], 5),  # not one row per sample
        ([{"y": logits(shape=(4, 3))}, {"y": logits(shape=(4, 2))}], 8),  # no common classes
        ([{"y": logits(shape=(4, 3))}, {"y": logits(shape=(4, 3, 2))}], 8),
        ([{"y": np.full((4, 3), np.nan)}], 4),
        ([], 0),
    ],
)
def test_model_without_head(batches: list[Outputs], samples: int) -> None:
    assert compare_heads(forward_pass(*batches), forward_pass(*batches), samples=samples) is None


def test_identical_predictions_agree() -> None:
    same = forward_pass({"y": logits(1, (16, 10))})
    found = compare_heads(same, same, samples=16)
    assert found is not None
    assert found.agreement == 1
    assert found.entropy_change == 0
    assert not found.less_certain
    assert not found.collapsed
