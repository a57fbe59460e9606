"""Regret: the error of a method minus that of the best method at the same n and domain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Regret", "mean_errors", "regrets"]

Cell = tuple[str, int, int]  # domain, seed, n


@dataclass(frozen=True, slots=True, kw_only=True)
class Regret:
    """Regret of one method at one n, over domains and networks, in percentage points."""

    mean: float
    worst: float
    worst_domain: str


def mean_errors(rows: Iterable[Mapping[str, object]]) -> dict[Cell, dict[str, float]]:
    """Return the mean error over draws per cell and method; every cell includes `source`."""
    found: dict[Cell, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    source: dict[tuple[str, int], float] = {}
    for row in rows:
        domain, seed, n = str(row["domain"]), int(str(row["seed"])), int(str(row["samples"]))
        method, error = str(row["method"]), float(str(row["error"]))
        if method == "source":
            source[domain, seed] = error
        elif row["study"] == "regret":
            found[domain, seed, n][method].append(error)
    return {
        cell: {"source": source[cell[:2]], **{m: float(np.mean(e)) for m, e in errors.items()}}
        for cell, errors in found.items()
    }


def regrets(
    cells: Mapping[Cell, Mapping[str, float]], methods: Sequence[str]
) -> dict[tuple[str, int], Regret]:
    """Return the regret per method and n; the best of a cell may be `source`."""
    by_n: dict[tuple[str, int], list[tuple[float, str]]] = defaultdict(list)
    for (domain, _, n), errors in cells.items():
        best = min(errors.values())
        for method in methods:
            by_n[method, n].append((errors[method] - best, domain))
    return {
        key: Regret(
            mean=float(np.mean([regret for regret, _ in found])),
            worst=max(found)[0],
            worst_domain=max(found)[1],
        )
        for key, found in by_n.items()
    }
