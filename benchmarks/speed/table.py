"""Write the measured tables of docs/speed.md between their markers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_table"]

_START, _END = "<!-- speed: measured -->", "<!-- speed: end -->"


def write_table(path: Path, results: Mapping[str, Any]) -> None:
    """Replace the text between the markers."""
    before, _, rest = path.read_text().partition(_START)
    _, _, after = rest.partition(_END)
    tables = "\n".join(_sections(results))
    path.write_text(f"{before}{_START}\n\n{tables}\n\n{_END}{after}")


def _sections(results: Mapping[str, Any]) -> list[str]:
    lines = [_about(results)]
    if results["networks"]:
        lines += ["", *_passes(results["networks"])]
    if results.get("adapt"):
        lines += ["", *_adapt(results["adapt"])]
    if results.get("first"):
        lines += ["", *_first(results["first"])]
    if results.get("scaling"):
        lines += ["", *_scaling(results["scaling"])]
    return lines


def _passes(networks: Mapping[str, Any]) -> list[str]:
    columns = list(dict.fromkeys(c for found in networks.values() for c in found["ratios"]))
    lines = _heading("ratio of wall times", networks)
    for column in columns:
        cells = [_cell(found["ratios"].get(column)) for found in networks.values()]
        lines.append(f"| {column} | " + " | ".join(cells) + " |")
    for contender in next(iter(networks.values()))["seconds"]:
        cells = [
            f"{statistics.median(one['wall'] for one in found['seconds'][contender]):.2f} s"
            for found in networks.values()
        ]
        lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    return lines


def _heading(title: str, columns: Iterable[str]) -> list[str]:
    names = list(columns)
    return [f"| {title} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]


def _adapt(networks: Mapping[str, Any]) -> list[str]:
    lines = _heading("`adapt` whole", networks)
    rows = [(size, row) for size, found in _first_of(networks).items() for row in found["ratios"]]
    for size, row in rows:
        cells = [_cell(found[size]["ratios"][row]) for found in networks.values()]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def _first(networks: Mapping[str, Any]) -> list[str]:
    lines = _heading("`recalibrate` in a fresh process", networks)
    ratios = [f["calls"][0] / statistics.median(f["calls"][1:]) for f in networks.values()]
    lines.append("| first / later calls | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")
    imports = [f"{found['import']:.2f} s" for found in networks.values()]
    lines.append("| import of bn_ops | " + " | ".join(imports) + " |")
    return lines


def _scaling(found: Mapping[str, Any]) -> list[str]:
    lines = _heading(f"{found['network']}, exact", (f"{n} images" for n in found["images"]))
    lines.append("| seconds | " + " | ".join(f"{s:.2f}" for s in found["images"].values()) + " |")
    per = [f"{1000 * s / int(n):.1f}" for n, s in found["images"].items()]
    lines.append("| milliseconds per image | " + " | ".join(per) + " |")
    by = ", ".join(f"{s:.2f} s on {n}" for n, s in found["threads"].items())
    return [*lines, "", f"By number of threads: {by}."]


def _first_of(networks: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(iter(networks.values()))
    return found


def _about(results: Mapping[str, Any]) -> str:
    about = results["about"]
    note = f" {about['note']}" if about["note"] else ""
    return (
        f"{about['date']}, {about['cpu']}, {about['threads']} threads of {about['cores']} cores, "
        f"onnxruntime {about['onnxruntime']}, torch {about['torch']}; {about['images']} images of "
        f"{about['size']}x{about['size']} in batches of {about['batch']}. Median of "
        f"{about['repeats']} interleaved repetitions, minimum and maximum in brackets.{note} "
        f"One thread copies {about['memory_bandwidth'] / 1e9:.0f} GB/s (reads and writes)."
    )


def _cell(ratio: Mapping[str, Mapping[str, float]] | None) -> str:
    if ratio is None:
        return "–"
    wall = ratio["wall"]
    return f"{wall['median']:.2f} ({wall['least']:.2f}–{wall['greatest']:.2f})"
