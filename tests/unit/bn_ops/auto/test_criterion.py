"""The criterion, against its definition evaluated one number at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bn_ops.auto.criterion import gain, score
from bn_ops.errors import OptionError


def probabilities(
    samples: int, classes: int, *, positions: int = 1, seed: int = 0
) -> NDArray[np.float64]:
    logits = np.random.default_rng(seed).normal(size=(samples, positions, classes)) * 3
    powers = np.exp(logits)
    table: NDArray[np.float64] = powers / powers.sum(axis=2, keepdims=True)
    return table


def by_definition(p: NDArray[np.float64]) -> tuple[list[float], float, float]:
    """Return J per sample, the mean entropy and the number of distinct classes, without arrays."""
    samples, positions, classes = p.shape
    mean = [
        math.fsum(p[i, s, k] for i in range(samples) for s in range(positions))
        / (samples * positions)
        for k in range(classes)
    ]
    objective, entropies, divergences = [], [], []
    for i in range(samples):
        entropy = divergence = 0.0
        for s in range(positions):
            row = [float(value) for value in p[i, s]]
            entropy += -math.fsum(x * math.log(x) for x in row) / positions
            divergence += (
                math.fsum(x * math.log(x / m) for x, m in zip(row, mean, strict=True)) / positions
            )
        objective.append(divergence - entropy / 2)
        entropies.append(entropy)
        divergences.append(divergence)
    return (
        objective,
        math.fsum(entropies) / samples,
        math.exp(math.fsum(divergences) / samples),
    )


@pytest.mark.parametrize("positions", [1, 5])
@pytest.mark.parametrize(("samples", "classes"), [(1, 2), (2, 7), (64, 10), (20, 300)])
def test_score_follows_definition(samples: int, classes: int, positions: int) -> None:
    p = probabilities(samples, classes, positions=positions)
    found = score(p)
    objective, entropy, distinct = by_definition(p)
    np.testing.assert_allclose(found.objective, objective, rtol=1e-10, atol=1e-12)
    assert found.entropy == pytest.approx(entropy, rel=1e-12)
    assert found.distinct_classes == pytest.approx(distinct, rel=1e-12)
    assert found.classes == classes


def test_gain_follows_definition() -> None:
    before, after = probabilities(12, 5, seed=1), probabilities(12, 5, seed=2)
    found = gain(score(before), score(after))
    old, new = by_definition(before), by_definition(after)
    rises = [(b - a) / math.log(5) for a, b in zip(old[0], new[0], strict=True)]
    mean = math.fsum(rises) / 12
    error = math.sqrt(math.fsum((x - mean) ** 2 for x in rises) / 11 / 12)
    assert found.value == pytest.approx(mean, abs=1e-6)
    assert found.error == pytest.approx(error, abs=1e-6)
    assert found.entropy_rise == pytest.approx((new[1] - old[1]) / math.log(5), abs=1e-6)


def test_gain_is_in_units_of_what_few_samples_can_show() -> None:
    uncertain = np.full((3, 1, 10), 0.1)
    certain = np.zeros((3, 1, 10))
    certain[[0, 1, 2], 0, [4, 6, 9]] = 1.0
    found = gain(score(uncertain), score(certain))
    # From -ln(10)/2 to ln 3 nats, in units of ln 3.
    assert found.value == pytest.approx(1 + math.log(10) / 2 / math.log(3), abs=1e-5)
    assert found.entropy_rise == pytest.approx(-1, abs=1e-5)


def test_zero_probabilities_are_finite() -> None:
    certain = np.zeros((4, 1, 3))
    certain[:, :, 1] = 1.0
    found = score(certain)
    assert found.distinct_classes == pytest.approx(1)
    assert found.entropy == pytest.approx(0, abs=1e-9)


def test_error_of_one_sample_is_infinite() -> None:
    one = score(probabilities(1, 4))
    assert math.isinf(gain(one, one).error)


@given(st.permutations(range(20)), st.integers(2, 12))
def test_gain_ignores_the_order_of_samples(order: list[int], classes: int) -> None:
    before = probabilities(20, classes, positions=3, seed=3)
    after = probabilities(20, classes, positions=3, seed=4)
    assert gain(score(before), score(after)) == gain(score(before[order]), score(after[order]))


@pytest.mark.parametrize("shape", [(4, 3), (0, 1, 3), (4, 0, 3), (4, 1, 1)])
def test_other_shapes_are_rejected(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="class probabilities"):
        score(np.ones(shape))
