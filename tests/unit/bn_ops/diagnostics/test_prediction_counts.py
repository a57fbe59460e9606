"""Two trials on the same samples: which output is a head, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pytest

from bn_ops.diagnostics.forward_trial import Made, Reached, Trial, try_out
from bn_ops.diagnostics.prediction_counts import compare_heads

Outputs = Mapping[str, np.ndarray]


def trial(*batches: Outputs) -> Trial:
    def run(batches: Iterable[Outputs], *, made: Made, reached: Reached | None = None) -> None:
        del reached
        for outputs in batches:
            made(outputs)

    return try_out(run, batches)


def logits(seed: int = 0, shape: Sequence[int] = (20, 3)) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def probabilities(z: np.ndarray) -> np.ndarray:
    wide = np.exp(z.astype(np.float64))
    return np.asarray(wide / wide.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("softmax", [False, True])
def test_the_first_table_of_classes_is_the_head_logits_or_probabilities(*, softmax: bool) -> None:
    x = logits()

    def answers(factor: float) -> Trial:
        z = factor * x
        table = probabilities(z).astype(np.float32) if softmax else z
        return trial(
            *({"map": x[part, :, None], "logits": table[part]} for part in np.split(np.r_[:20], 4))
        )

    found = compare_heads(answers(1), answers(-1), samples=20)
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
        ([{"y": logits(shape=(4, 1))}], 4),  # one number per sample is no choice of classes
        ([{"y": logits(shape=(4, 3, 1))}], 4),  # a map
        ([{"y": np.zeros((4, 3), np.int64)}], 4),
        ([{"y": logits(shape=(4, 3))}], 5),  # not one row per sample
        ([{"y": logits(shape=(4, 3))}, {"y": logits(shape=(4, 2))}], 8),  # no common classes
        ([{"y": logits(shape=(4, 3))}, {"y": logits(shape=(4, 3, 2))}], 8),
        ([{"y": np.full((4, 3), np.nan)}], 4),
        ([], 0),
    ],
)
def test_a_model_without_a_head_has_nothing_to_compare(
    batches: list[Outputs], samples: int
) -> None:
    assert compare_heads(trial(*batches), trial(*batches), samples=samples) is None


def test_the_same_answers_agree() -> None:
    same = trial({"y": logits(1, (16, 10))})
    found = compare_heads(same, same, samples=16)
    assert found is not None
    assert found.agreement == 1
    assert found.entropy_change == 0
    assert not found.less_certain
    assert not found.collapsed
