"""Write the measured table of docs/speed.md between its markers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_table"]

_START, _END = "<!-- speed: measured -->", "<!-- speed: end -->"


def write_table(path: Path, results: Mapping[str, Any]) -> None:
    """Replace the text between the markers."""
    before, _, rest = path.read_text().partition(_START)
    _, _, after = rest.partition(_END)
    path.write_text(f"{before}{_START}\n\n{_table(results)}\n\n{_END}{after}")


def _table(results: Mapping[str, Any]) -> str:
    networks: Mapping[str, Any] = results["networks"]
    columns = list(dict.fromkeys(c for found in networks.values() for c in found["ratios"]))
    lines = [
        _about(results),
        "",
        "| ratio of wall times | " + " | ".join(networks) + " |",
        "|---" * (len(networks) + 1) + "|",
    ]
    for column in columns:
        cells = [_cell(found["ratios"].get(column)) for found in networks.values()]
        lines.append(f"| {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _about(results: Mapping[str, Any]) -> str:
    about = results["about"]
    note = f" {about['note']}" if about["note"] else ""
    return (
        f"{about['date']}, {about['cpu']}, {about['threads']} threads of {about['cores']} cores, "
        f"onnxruntime {about['onnxruntime']}, torch {about['torch']}; {about['images']} images of "
        f"{about['size']}x{about['size']} in batches of {about['batch']}. Median of "
        f"{about['repeats']} interleaved repetitions, minimum and maximum in brackets.{note}"
    )


def _cell(ratio: Mapping[str, Mapping[str, float]] | None) -> str:
    if ratio is None:
        return "–"
    wall = ratio["wall"]
    return f"{wall['median']:.2f} ({wall['least']:.2f}–{wall['greatest']:.2f})"
