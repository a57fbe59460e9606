"""Corruptions and formulas of the accuracy benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy.corruptions import CORRUPTIONS, corrupt
from benchmarks.accuracy.harm_table import table
from benchmarks.accuracy.regret import mean_errors, regrets

IMAGES = np.random.default_rng(0).random((3, 1, 28, 28)).astype(np.float32)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruption_form_and_seed(name: str) -> None:
    changed = corrupt(IMAGES, name, seed=0)
    assert changed.shape == IMAGES.shape
    assert changed.dtype == np.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert np.abs(changed - IMAGES).max() > 0.02
    assert changed.tobytes() == corrupt(IMAGES, name, seed=0).tobytes()


def row(
    method: str, draw: int, error: float, *, domain: str = "a", study: str = "regret"
) -> dict[str, object]:
    return {
        "domain": domain,
        "seed": 0,
        "samples": 0 if method == "source" else 4,
        "method": method,
        "draw": draw,
        "study": study,
        "error": error,
    }


def test_regret_relative_to_best_method() -> None:
    rows = [
        row("source", 0, 30.0),
        row("Replace", 0, 20.0),
        row("Replace", 1, 24.0),
        row("Shrink", 0, 26.0),
        row("Shrink", 1, 26.0),
        row("Replace", 0, 0.0, study="batch"),
        row("source", 0, 5.0, domain="b"),
        row("Replace", 0, 15.0, domain="b"),
        row("Shrink", 0, 6.0, domain="b"),
    ]
    found = regrets(mean_errors(rows), ["source", "Replace", "Shrink"])
    assert (found["Shrink", 4].mean, found["Shrink", 4].worst) == (2.5, 4.0)
    assert found["Shrink", 4].worst_domain == "a"
    assert (found["Replace", 4].mean, found["Replace", 4].worst) == (5.0, 10.0)
    assert found["source", 4].mean == 4.0


def test_harm_rates_of_both_splits() -> None:
    def case(name: str, change: float, entropy: float) -> dict[str, object]:
        return {
            "case": name,
            "error_before": 20.0,
            "error_after": 20.0 + change,
            "agreement": 0.5,
            "entropy_change": entropy,
            "effective_classes_ratio": 1.0,
            "split_half_agreement": 0.5,
        }

    text = table(
        [
            case("digits-0, n = 2", 5, 0.8),
            case("digits-0, n = 64", -5, 0.1),
            case("clean, n = 2", 5, 0.9),
            case("fog, n = 2", 5, 0.7),
            case("fog, n = 64", -5, 0.85),
            case("fog, n = 256", 0.5, 2.0),
        ]
    )
    assert "6 runs: 3 did harm, 2 helped, 1 did little." in text
    assert "| entropy_change | 0.67 | 0.80 | 1 of 1, 0 of 1 | 1 of 2, 1 of 1 |" in text
