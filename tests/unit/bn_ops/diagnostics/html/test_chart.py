"""The bars of the chart are proportional to the values and stay inside it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bn_ops.diagnostics.html.chart import HEIGHT, Chart, drift_chart
from bn_ops.diagnostics.html.stages import stages
from bn_ops.diagnostics.report import LayerReport
from tests.support.reports import full_report, many_layers


def chart(values: list[float]) -> Chart | None:
    layers = []
    for layer, value in zip(
        many_layers([f"s{i // 9}.{i}" for i in range(len(values))]), values, strict=True
    ):
        assert layer.drift is not None
        layers.append(replace(layer, drift=replace(layer.drift, wasserstein=value)))
    return drift_chart(replace(full_report(), layers=tuple(layers)), stages(layers))


@given(st.lists(st.floats(0, allow_nan=False), min_size=1, max_size=150))
def test_bars_are_inside_and_proportional(values: list[float]) -> None:
    found = chart(values)
    if found is None:
        assert not any(values)
        return
    assert 2 <= len(found.ticks) <= 6
    assert len(found.bars) == len(values)
    assert sum(bar.largest for bar in found.bars) == 1
    places = [(bar.x, bar.x + bar.width) for bar in found.bars]
    assert places[0][0] >= 0
    assert places[-1][1] <= 100.001
    assert all(left[1] < right[0] for left, right in itertools.pairwise(places))
    for bar in found.bars:
        assert 0 <= bar.y <= HEIGHT
        assert bar.y + bar.height == pytest.approx(HEIGHT - 8)


def test_heights() -> None:
    found = chart([0.1, 0.2, 0.4])
    assert found is not None
    one, two, three = (bar.height for bar in found.bars)
    assert two == pytest.approx(2 * one)
    assert three == pytest.approx(4 * one)
    assert [tick.label for tick in found.ticks] == ["0", "0.1", "0.2", "0.3", "0.4"]
    assert found.summary == "Median 0.20 σ; largest 0.40 σ, in s0.2."
    assert found.bars[1].label == "s0.1: 0.20 σ"


def test_outlier_is_cut_and_labeled() -> None:
    found = chart([222.0, 0.1, 0.2])
    assert found is not None
    assert [bar.cut for bar in found.bars] == ["222 σ", "", ""]
    assert found.bars[2].height > HEIGHT / 4


def test_tiny_drift_does_not_fill_the_chart() -> None:
    found = chart([1e-9, 2e-9])
    assert found is not None
    assert all(bar.height < 1 for bar in found.bars)


def test_no_chart_without_values() -> None:
    layers = (LayerReport(name="a", status="unreached", reason="no batch reached it"),)
    assert drift_chart(replace(full_report(), layers=layers), stages(layers)) is None


def test_borders_are_between_stages() -> None:
    found = chart([0.1] * 18)
    assert found is not None
    assert found.borders == (50.0,)
