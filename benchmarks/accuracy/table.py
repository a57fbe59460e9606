"""Write the tables of docs/estimators.md from the raw rows of both benchmarks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.regret import mean_errors, regrets
from benchmarks.accuracy.results import read_results

__all__ = ["write_tables"]

PAGE = Path(__file__).parents[2] / "docs" / "estimators.md"
BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"

METHODS = ("source", "update_bn", "PreciseBN", "Replace", "Prior(16)", "Prior(256)", "Shrink")
_ERROR_SAMPLES = (1, 4, 16, 64, 1024)

Rows = Sequence[Mapping[str, Any]]


def write_tables() -> Path:
    """Write the tables of the existing results between the markers of the page."""
    rows = [
        row
        for name in ("digits", "fashion")
        for row in (read_results(name) or {"rows": []})["rows"]
    ]
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(rows)}\n\n{END}{after}", encoding="utf-8")
    return PAGE


def tables(rows: Rows) -> str:
    """Render every table as Markdown."""
    held_out = [row for row in rows if not row["development"]]
    developed = [row for row in rows if row["development"]]
    parts = [
        "**Regret on the held-out domains** (ten corruptions and clean), mean / worst, in points:",
        _regret_table(held_out),
        "**Regret on the development domains** (three digit networks, five corruptions):",
        _regret_table(developed),
        "**Worst regret of each method at n = 1, 4 and 64, and its domain**, all domains:",
        _worst_table(rows),
        "**Error in percent**, per domain: source, then n = "
        + ", ".join(map(str, _ERROR_SAMPLES))
        + " as Replace / Prior(16) / Shrink:",
        _error_table(rows),
        "**Batch size B and order**, n = 256, error in percent; Replace depends on neither:",
        _batch_table([row for row in rows if row["study"] == "batch"]),
    ]
    return "\n\n".join(parts)


def _regret_table(rows: Rows) -> str:
    cells = mean_errors(rows)
    if not cells:
        return "(not measured)"
    found = regrets(cells, METHODS)
    samples = sorted({n for _, _, n in cells})
    return _markdown(
        ["method", *(f"n = {n}" for n in samples)],
        [
            [
                method,
                *(f"{found[method, n].mean:.1f} / {found[method, n].worst:.1f}" for n in samples),
            ]
            for method in METHODS
        ],
    )


def _worst_table(rows: Rows) -> str:
    cells = mean_errors(rows)
    found = regrets(cells, METHODS)
    return _markdown(
        ["method", "n = 1", "n = 4", "n = 64"],
        [
            [
                method,
                *(
                    f"{found[method, n].worst:.1f} ({found[method, n].worst_domain})"
                    for n in (1, 4, 64)
                ),
            ]
            for method in METHODS
        ],
    )


def _error_table(rows: Rows) -> str:
    cells = mean_errors(rows)
    domains = list(dict.fromkeys(domain for domain, _, _ in cells))
    body = []
    for domain in domains:
        source = _mean(cells, domain, _ERROR_SAMPLES[0], "source")
        trios = [
            " / ".join(
                f"{_mean(cells, domain, n, m):.1f}" for m in ("Replace", "Prior(16)", "Shrink")
            )
            for n in _ERROR_SAMPLES
        ]
        body.append([domain, f"{source:.1f}", *trios])
    return _markdown(["domain", "source", *(f"n = {n}" for n in _ERROR_SAMPLES)], body)


def _mean(
    cells: Mapping[tuple[str, int, int], Mapping[str, float]], domain: str, n: int, method: str
) -> float:
    found = [errors[method] for (name, _, m), errors in cells.items() if (name, m) == (domain, n)]
    return float(np.mean(found))


def _batch_table(rows: Rows) -> str:
    sizes = sorted({row["batch"] for row in rows if row["method"] != "Replace"})
    body = []
    for domain in dict.fromkeys(row["domain"] for row in rows):
        for method in ("Replace", "update_bn", "PreciseBN"):
            for order in ("shuffled", "sorted"):
                here = [
                    row
                    for row in rows
                    if (row["domain"], row["method"], row["order"]) == (domain, method, order)
                ]
                by_size = {row["batch"]: row["error"] for row in here}
                errors = (
                    [f"{here[0]['error']:.1f}"] * len(sizes)
                    if method == "Replace"
                    else [f"{by_size[size]:.1f}" for size in sizes]
                )
                body.append([domain, method, order, *errors])
    return _markdown(["domain", "method", "order", *(f"B = {size}" for size in sizes)], body)


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
