"""The chart for matplotlib shows the report's values."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

import bn_ops
from bn_ops.diagnostics.plot import plot_drift
from bn_ops.errors import OptionError
from bnrecal_client import OptionError as ClientOptionError
from bnrecal_client import Result, UnexpectedResponseError
from bnrecal_client._library import render_report
from tests.support.reports import full_report, many_layers


def heights(figure: Figure) -> list[float]:
    [axes] = figure.axes
    return [float(bar.get_height()) for bar in axes.patches]  # type: ignore[attr-defined]


def test_bars_are_the_drift() -> None:
    figure = plot_drift(full_report())
    assert heights(figure) == pytest.approx([0.44, np.nan], nan_ok=True)
    [axes] = figure.axes
    assert axes.get_ylim()[0] == 0
    assert [label.get_text() for label in axes.get_xticklabels()] == ["block1.bn1", "head.bn"]


@pytest.mark.parametrize("count", [0, 1, 30, 31, 400])
@pytest.mark.parametrize("kind", ["svg", "png"])
def test_any_number_of_layers_is_drawn(count: int, kind: str) -> None:
    names = [f"a$b_{{{index}$" for index in range(count)]
    figure = plot_drift(replace(full_report(), layers=many_layers(names)))
    assert heights(figure) == pytest.approx([(index + 1) / 100 for index in range(count)])
    file = io.BytesIO()
    figure.savefig(file, format=kind)
    assert len(file.getvalue()) > 1000


def test_given_axes_are_used() -> None:
    axes = Figure().add_subplot(1, 2, 1)
    figure = plot_drift(full_report(), axes)
    assert figure is axes.figure
    assert axes.patches


def result() -> Result:
    return Result(
        recalibration_id=None,
        report=json.loads(json.dumps(full_report().to_json())),
        report_html="",
        statistics={},
        model=b"",
        unfolded=None,
    )


def test_client_draws_and_renders_the_same() -> None:
    assert heights(result().plot()) == pytest.approx([0.44, np.nan], nan_ok=True)
    assert render_report(result().report) == bn_ops.render_html(full_report())


def test_a_report_of_another_form_is_refused() -> None:
    with pytest.raises(UnexpectedResponseError, match="does not fit"):
        render_report({"layers": 3})


def test_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r"pip install 'bnrecal\[plot\]'"):
        plot_drift(full_report())
    with pytest.raises(ClientOptionError, match="matplotlib"):
        result().plot()
