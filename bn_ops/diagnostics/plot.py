"""Charts of a report with matplotlib, which is imported on use (the extra `plot`)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bn_ops.diagnostics.report import LayerReport, Report
from bn_ops.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_drift"]

# Inches; the width grows with the number of layers up to the second value.
_WIDTH, _MAX_WIDTH, _HEIGHT = 7.0, 14.0, 3.4
_INCHES_PER_LAYER = 0.11

# More names would overlap.
_MAX_NAMES = 30

_BAR, _ERROR = "#2458c6", "#1a1d23"


def plot_drift(report: Report, axes: Axes | None = None) -> Figure:
    """Draw how far each layer's statistics moved, in order of execution.

    Bars are the distance between old and new statistics (`drift.wasserstein`), in units of the
    layer's old σ. The lines at their ends are the 95 % error of the new mean; smaller distances may
    be due to chance. Layers without a measurement have no bar.

    Args:
        report: the report.
        axes: where to draw; None for a new figure, which belongs to no window.

    Returns:
        The figure; `savefig` writes it as SVG, PDF or PNG.

    Raises:
        OptionError: matplotlib is not installed.
    """
    layers = report.layers
    if axes is None:
        axes = _new_axes(len(layers))
    places = range(len(layers))
    distances = [_distance(layer) for layer in layers]
    errors = [0.0 if layer.confidence is None else layer.confidence.mean_error for layer in layers]
    axes.bar(places, distances, width=0.75, color=_BAR)
    axes.errorbar(places, distances, yerr=errors, fmt="none", ecolor=_ERROR, elinewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.set_xlim(-0.5, max(len(layers), 1) - 0.5)
    axes.set_ylabel("drift in σ")
    axes.set_title("How far each layer's statistics moved", loc="left", fontsize="medium")
    if len(layers) <= _MAX_NAMES:
        # As text, not as mathematics: a name may hold a dollar sign.
        names = [layer.name.replace("$", r"\$") for layer in layers]
        axes.set_xticks(places, names, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    else:
        axes.set_xlabel("layer, in order of execution")
    axes.spines[["top", "right"]].set_visible(False)
    figure = axes.get_figure(root=True)
    assert figure is not None  # axes are made by a figure
    return figure


def _new_axes(layers: int) -> Axes:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise OptionError("plots need matplotlib: pip install 'bnrecal[plot]'") from error
    width = min(max(_WIDTH, 1 + _INCHES_PER_LAYER * layers), _MAX_WIDTH)
    figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _distance(layer: LayerReport) -> float:
    distance = math.nan if layer.drift is None else layer.drift.wasserstein
    return distance if math.isfinite(distance) else math.nan
