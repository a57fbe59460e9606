"""The geometry of the chart of drift by depth; `chart.html` draws it as SVG.

Horizontal positions are percentages and vertical ones CSS pixels, so that the chart follows the
width of the page while its text and lines keep their size, without a script and without style
attributes, which the policy forbids.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bn_ops.diagnostics.html.numbers import sigma
from bn_ops.diagnostics.html.stages import Stage
from bn_ops.diagnostics.html.summary import misfit
from bn_ops.diagnostics.report import LayerReport, Report

__all__ = ["HEIGHT", "Bar", "Chart", "Tick", "drift_chart"]

HEIGHT = 228
"""Height of the chart in pixels, with a margin above and below the bars."""

_TOP, _BOTTOM = 12, HEIGHT - 8

# Share of a layer's slot that its bar fills, and the widest bar, in percent of the chart. Gaps of
# less than a pixel, between many bars, would show as a pattern.
_FILL = 0.74
_MANY_LAYERS = 150
_MAX_WIDTH = 3.2

_MAX_TICKS = 5

# The top of the scale, in σ: smaller drift is noise, larger drift is cut.
_MIN_SCALE = 0.05
_MAX_SCALE = 1e4

# A single bar that is this many times longer than the next one is cut, so that the others show.
_OUTLIER = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One layer.

    Attributes:
        x, width: percent of the width.
        y, height: pixels; height 0 where there is no value.
        label: the layer and its value.
        largest: whether it is the largest of all.
        cut: the value of a bar that is longer than the scale; empty for others.
    """

    x: float
    width: float
    y: float
    height: float
    label: str
    largest: bool
    cut: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One grid line: its height in pixels, and its label."""

    y: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A bar chart over the layers in order of execution.

    Attributes:
        title: what the bars show.
        summary: one sentence with the largest value, also for screen readers.
        bars: one for each layer.
        ticks: grid lines, from the bottom.
        borders: positions between stages, in percent.
    """

    title: str
    summary: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    borders: tuple[float, ...]


def drift_chart(report: Report, stages: Sequence[Stage]) -> Chart | None:
    """Return the chart of drift by depth; None without a measured layer.

    Where no layer's statistics moved (the source statistics were kept), it shows how far the
    layers' inputs are from them.
    """
    layers = report.layers
    moved = [None if layer.drift is None else layer.drift.wasserstein for layer in layers]
    if any(moved):
        return _chart("Drift: how far each layer's statistics moved, in σ", layers, moved, stages)
    off = [misfit(layer) for layer in layers]
    if any(off):
        title = "How far each layer's input is from its statistics, which were kept, in σ"
        return _chart(title, layers, off, stages)
    return None


def _chart(
    title: str,
    layers: Sequence[LayerReport],
    values: Sequence[float | None],
    stages: Sequence[Stage],
) -> Chart:
    finite = [value if value is not None and math.isfinite(value) else 0.0 for value in values]
    top = max(finite)
    peak = finite.index(top)
    scale = _scale(finite)
    step = _step(scale)
    end = step * math.ceil(scale / step - 1e-9)
    slot = 100 / len(layers)
    fill = _FILL if len(layers) < _MANY_LAYERS else 1.0
    width = min(slot * fill, _MAX_WIDTH)
    bars = tuple(
        Bar(
            x=slot * (index + 0.5) - width / 2,
            width=width,
            y=_y(value, end),
            height=_BOTTOM - _y(value, end),
            label=f"{layers[index].name}: {_described(layers[index], values[index])}",
            largest=index == peak,
            cut=sigma(value) if value > end else "",
        )
        for index, value in enumerate(finite)
    )
    ticks = tuple(
        Tick(y=_y(step * index, end), label=_tick(step * index))
        for index in range(round(end / step) + 1)
    )
    middle = median(value for value in values if value is not None)
    return Chart(
        title=title,
        summary=f"Median {sigma(middle)}; largest {sigma(top)}, in {layers[peak].name}.",
        bars=bars,
        ticks=ticks,
        borders=tuple(slot * stage.first for stage in stages[1:]),
    )


def _scale(values: Sequence[float]) -> float:
    """Return the top of the scale."""
    *_, second, top = sorted((0.0, *values))
    if top > _OUTLIER * second > 0:
        top = 2 * second
    return min(max(top, _MIN_SCALE), _MAX_SCALE)


def _described(layer: LayerReport, value: float | None) -> str:
    return layer.status if value is None else sigma(value)


def _y(value: float, end: float) -> float:
    return _BOTTOM - (_BOTTOM - _TOP) * min(value / end, 1.0)


def _step(top: float) -> float:
    """Return a step of 1, 2 or 5 times a power of ten that needs at most five grid lines."""
    power = 10.0 ** math.floor(math.log10(top / _MAX_TICKS))
    return next(power * k for k in (1, 2, 5, 10) if power * k * _MAX_TICKS >= top * (1 - 1e-9))


def _tick(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")
