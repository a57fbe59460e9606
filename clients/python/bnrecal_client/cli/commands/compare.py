"""`bnrecal compare`: two recalibrations side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bnrecal_client.cli.click_support import Arguments
from bnrecal_client.cli.commands.report import load_outcome
from bnrecal_client.cli.output import print_json, print_lines, summary, table
from bnrecal_client.result import Outcome

__all__ = ["compare"]

_SHOWN = 8


def compare(args: Arguments) -> None:
    """Print both."""
    names = (args.first, args.second)
    outcomes = [load_outcome(name, args) for name in names]
    rows = _rows(outcomes)
    layers = _layers(outcomes)
    if args.json:
        print_json(
            {
                "a": {"run": names[0], **{key: row[0] for key, row in rows.items()}},
                "b": {"run": names[1], **{key: row[1] for key, row in rows.items()}},
                "layers": layers,
            }
        )
    elif not args.quiet:
        print_lines(_lines(names, rows, layers))


def _rows(outcomes: Sequence[Outcome]) -> dict[str, list[Any]]:
    """Return the compared values by name, one per outcome; None where unknown."""
    found = [_values(outcome) for outcome in outcomes]
    return {name: [values[name] for values in found] for name in found[0]}


def _values(outcome: Outcome) -> dict[str, Any]:
    known = summary(outcome, ())
    verdict, evaluation = known["verdict"], known["evaluation"] or {}
    predictions: Mapping[str, Any] = outcome.report.get("prediction_shift") or {}
    drift = known["drift"]
    return {
        "verdict": None if verdict is None else verdict["code"],
        "estimator": (known["estimator"] or {}).get("name"),
        "method": known["method"],
        "samples": known["samples"],
        "source_sha256": outcome.report.get("source_sha256"),
        "error_before": evaluation.get("error_before"),
        "error_after": evaluation.get("error_after"),
        "agreement": predictions.get("agreement"),
        "entropy_change": predictions.get("entropy_change"),
        "largest_drift": drift[0]["drift"] if drift else None,
        "warnings": len(known["warnings"]),
    }


def _layers(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return the layers by how much their drift differs, the most first."""
    drifts = [_drifts(outcome.report) for outcome in outcomes]
    both = [
        {"layer": name, "a": drifts[0].get(name), "b": drifts[1].get(name)}
        for name in dict.fromkeys([*drifts[0], *drifts[1]])
    ]
    return sorted(both, key=lambda one: -abs((one["a"] or 0.0) - (one["b"] or 0.0)))


def _drifts(report: Mapping[str, Any]) -> dict[str, float]:
    return {
        str(layer["name"]): float((layer.get("drift") or {}).get("wasserstein") or 0.0)
        for layer in report.get("layers") or ()
        if isinstance(layer, Mapping) and layer.get("status") == "recalibrated"
    }


def _lines(
    names: tuple[str, str], rows: Mapping[str, Sequence[Any]], layers: Sequence[Mapping[str, Any]]
) -> list[str]:
    right = frozenset({1, 2})
    texts = [[_LABELS[name], *(_text(name, value) for value in row)] for name, row in rows.items()]
    shown = [row for row in texts if any(cell for cell in row[1:])]
    lines = table(["", *names], shown, right=right).splitlines()
    if len(set(rows["source_sha256"])) > 1:
        lines += ["", "warning: the two were made from different source models"]
    different = [layer for layer in layers if layer["a"] != layer["b"]]
    if not different:
        return [*lines, "", "the statistics of every layer drift alike"]
    drift = [
        [str(one["layer"]), *("" if one[side] is None else f"{one[side]:.2f}" for side in "ab")]
        for one in different[:_SHOWN]
    ]
    lines += ["", *table(["drift/σ", *names], drift, right=right).splitlines()]
    hidden = len(different) - _SHOWN
    return lines if hidden <= 0 else [*lines, f"and {hidden:,} more layers that differ (--json)"]


_LABELS = {
    "verdict": "verdict",
    "estimator": "estimator",
    "method": "method",
    "samples": "samples",
    "source_sha256": "source model",
    "error_before": "error before",
    "error_after": "error after",
    "agreement": "same predictions",
    "entropy_change": "entropy change",
    "largest_drift": "largest drift/σ",
    "warnings": "warnings",
}
_SHARES = frozenset({"error_before", "error_after", "agreement"})


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in _SHARES:
        return f"{value:.1%}"
    if name == "source_sha256":
        return str(value)[:12]
    if name == "entropy_change":
        return f"{value:+.2f} nats"
    if isinstance(value, float):
        return f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
