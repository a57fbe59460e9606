"""The shift of predictions, and when it causes a warning."""

from __future__ import annotations

import numpy as np
import pytest

from bn_ops.diagnostics.before_after import prediction_shift, prediction_warnings
from bn_ops.diagnostics.class_outputs import softmax
from bn_ops.errors import OptionError


def sure_of(classes: list[int], among: int = 4) -> np.ndarray:
    table: np.ndarray = np.full((len(classes), among), 0.1 / (among - 1))
    table[np.arange(len(classes)), classes] = 0.9
    return table


def test_shift_follows_definitions() -> None:
    before, after = sure_of([0, 1, 2, 3]), np.full((4, 4), 0.25)
    after[:, 1] += 1e-9
    found = prediction_shift("y", before, after)
    assert found.samples == 4
    assert found.agreement == 0.25
    assert found.effective_classes_before == pytest.approx(4)
    assert found.effective_classes_after == pytest.approx(1)
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1 / 3))
    assert found.entropy_change == pytest.approx(np.log(4) - entropy, abs=1e-6)


def test_changes_of_the_class_and_confidence() -> None:
    found = prediction_shift("y", sure_of([0, 0, 1, 2, 2, 2]), sure_of([1, 1, 1, 0, 3, 0]))
    assert [(one.before, one.after, one.samples) for one in found.changes] == [
        (0, 1, 2),
        (2, 0, 2),
        (2, 3, 1),
    ]
    assert found.confidence_before == pytest.approx(0.9)
    assert found.confidence_after == pytest.approx(0.9)


def test_only_the_most_frequent_changes_are_listed() -> None:
    before, after = sure_of(list(range(30)), 60), sure_of(list(range(30, 60)), 60)
    assert len(prediction_shift("y", before, after).changes) == 20


def test_effective_classes() -> None:
    # Half, a quarter, a quarter: exp(1.5 ln 2) = 2.83 classes.
    found = prediction_shift("y", sure_of([0, 0, 1, 2]), sure_of([0, 0, 1, 2]))
    assert found.effective_classes_after == pytest.approx(2**1.5)
    assert found.entropy_change == 0


@pytest.mark.parametrize(
    ("samples", "classes_after", "collapsed"),
    [
        (32, 4, False),  # unchanged
        (32, 2, False),  # exactly half
        (32, 1, True),
        (8, 1, False),  # too few predictions
    ],
)
def test_warning_about_class_collapse(samples: int, classes_after: int, *, collapsed: bool) -> None:
    before = sure_of([i % 4 for i in range(samples)])
    after = sure_of([i % classes_after for i in range(samples)])
    report = prediction_shift("logits", before, after)
    assert report.collapsed is collapsed
    warnings = prediction_warnings(report)
    assert len(warnings) == int(collapsed)
    if collapsed:
        assert "'logits'" in warnings[0]
        assert "1.0 effective classes, down from 4.0" in warnings[0]


@pytest.mark.parametrize(
    ("certainty", "warned"),
    [(0.9, False), (0.55, True)],  # mean entropy 0.43, and 1.18: a rise of 0.75 > 0.26 · ln 4
)
def test_warning_about_entropy_rise(certainty: float, *, warned: bool) -> None:
    before, after = sure_of([0, 1, 2, 3]), np.full((4, 4), (1 - certainty) / 3)
    np.fill_diagonal(after, certainty)
    report = prediction_shift("y", before, after)
    assert report.less_certain is warned
    warnings = prediction_warnings(report)
    assert len(warnings) == int(warned)
    if warned:
        assert f"{report.entropy_change:+.2f} nats" in warnings[0]


@pytest.mark.parametrize("shape", [(4,), (0, 3), (2, 3, 4)])
def test_other_shapes(shape: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="class probabilities"):
        prediction_shift("y", np.ones(shape), np.ones(shape))


def test_softmax_of_large_logits() -> None:
    logits = np.array([[0.0, np.log(3.0)], [1e4, 0.0]], dtype=np.float32)
    expected = np.array([[0.25, 0.75], [1.0, 0.0]])
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-7)


def test_deterministic() -> None:
    table = sure_of([0, 1])
    shift = prediction_shift("y", table, table)
    assert shift == prediction_shift("y", table.copy(), table.copy())
