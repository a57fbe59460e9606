"""Write the table of docs/harm-check.md: how well each signal separates harm from improvement.

A threshold is chosen on the development cases (largest hit rate minus false-alarm rate) and
evaluated on the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.data import DEVELOPMENT
from benchmarks.accuracy.results import read_results

__all__ = ["write_harm_table"]

PAGE = Path(__file__).parents[2] / "docs" / "harm-check.md"
BEGIN, END = "<!-- harm: begin -->", "<!-- harm: end -->"

# Smaller changes of the error, in points, count as neither harm nor improvement.
_POINT = 1.0

# Signal → sign that makes larger values mean harm, chosen before looking at the data.
_SIGNALS = {
    "agreement": -1.0,
    "entropy_change": 1.0,
    "effective_classes_ratio": -1.0,
    "split_half_agreement": -1.0,
}

Flags = NDArray[np.bool_]


def write_harm_table() -> Path:
    """Write the table between the page's markers."""
    found = read_results("harm")
    assert found is not None
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    text = f"{before}{BEGIN}\n\n{table(found['rows'])}\n\n{END}{rest.split(END)[1]}"
    PAGE.write_text(text, encoding="utf-8")
    return PAGE


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Render one line per signal."""
    change = np.array([row["error_after"] - row["error_before"] for row in rows])
    hurt, helped = change > _POINT, change < -_POINT
    chosen_on = np.array([_development(row["case"]) for row in rows])
    little = len(rows) - hurt.sum() - helped.sum()
    counts = f"{len(rows)} runs: {hurt.sum()} did harm, {helped.sum()} helped, {little} did little."
    head = (
        "| signal | ranks harm above help | threshold | development: hits, false alarms "
        "| held out: hits, false alarms |"
    )
    lines = [counts, "", head, "| --- | --- | --- | --- | --- |"]
    for name, sign in _SIGNALS.items():
        value = sign * np.array([row[name] for row in rows])
        limit = _threshold(value, hurt & chosen_on, helped & chosen_on)
        parts = [
            _rates(value >= limit, hurt & part, helped & part) for part in (chosen_on, ~chosen_on)
        ]
        ranked = f"{_ranking(value[hurt], value[helped]):.2f}"
        lines.append(f"| {name} | {ranked} | {sign * limit:.2f} | {parts[0]} | {parts[1]} |")
    return "\n".join(lines)


def _development(case: str) -> bool:
    name = case.split(",", maxsplit=1)[0]
    return name in DEVELOPMENT or name.split("-", maxsplit=1)[0] in {"digits", "mnist", "inverted"}


def _threshold(value: NDArray[np.float64], hurt: Flags, helped: Flags) -> float:
    limits = np.unique(value[hurt | helped])
    gain = [np.mean(value[hurt] >= t) - np.mean(value[helped] >= t) for t in limits]
    return float(limits[int(np.argmax(gain))])


def _rates(warned: Flags, hurt: Flags, helped: Flags) -> str:
    hits, alarms = (warned & hurt).sum(), (warned & helped).sum()
    return f"{hits} of {hurt.sum()}, {alarms} of {helped.sum()}"


def _ranking(hurt: NDArray[np.float64], helped: NDArray[np.float64]) -> float:
    """Return the probability that a harmful run has the larger value; 0.5 is chance level."""
    above = (hurt[:, None] > helped).astype(np.float64) + 0.5 * (hurt[:, None] == helped)
    return float(above.mean())
