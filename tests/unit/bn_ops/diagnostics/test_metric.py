"""Intervals of changes on labeled samples, against independent formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bn_ops.diagnostics.labeled_error import paired_difference_interval
from bn_ops.diagnostics.metric import paired_interval


@pytest.mark.parametrize(("right", "wrong", "pairs"), [(0, 0, 100), (12, 3, 40), (0, 9, 30)])
def test_paired_difference_interval(right: int, wrong: int, pairs: int) -> None:
    # Agresti & Min: the variance of the mean of d in {-1, 0, 1} with 1/2 added to each cell.
    total, gained, lost = pairs + 2, right + 0.5, wrong + 0.5
    change = (gained - lost) / total
    var = math.fsum([gained * (1 - change) ** 2, lost * (-1 - change) ** 2])
    var += (total - gained - lost) * change**2
    half = 1.959964 * math.sqrt(var) / total
    low, high = paired_difference_interval(right, wrong, pairs)
    assert (low, high) == pytest.approx((change - half, change + half), abs=1e-12)


def test_bootstrap_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 400)
    low, high = paired_interval(lambda rows: float(values[rows].mean()), 400)
    assert low is not None
    assert high is not None
    half = 1.959964 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)
    assert (low, high) == paired_interval(lambda rows: float(values[rows].mean()), 400)


def test_undefined_resamples() -> None:
    assert paired_interval(lambda _: math.nan, 10) == (None, None)
