"""Write the measured tables of docs/speed.md between their markers."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Return the tables; where results have several origins, their columns are numbered."""
    origins = list(dict.fromkeys(_about(one) for part in results.values() for one in part.values()))
    lines = list(origins) if len(origins) == 1 else []
    if len(origins) > 1:
        lines = [
            "Measured apart, so that only columns with the same number can be compared:",
            "",
            *(f"{number}. {origin}" for number, origin in enumerate(origins, start=1)),
        ]
    for part, render in _PARTS.items():
        if part not in results:
            continue
        named = {_label(name, one, origins): one["found"] for name, one in results[part].items()}
        lines += ["", *render(named)]
    return lines


def _label(network: str, result: Mapping[str, Any], origins: Sequence[str]) -> str:
    if len(origins) == 1:
        return network
    return f"{network} ({origins.index(_about(result)) + 1})"


def _passes(networks: Mapping[str, Any]) -> list[str]:
    columns = list(dict.fromkeys(c for found in networks.values() for c in found["ratios"]))
    lines = _heading("ratio of wall times", networks)
    for column in columns:
        cells = [_cell(found["ratios"].get(column)) for found in networks.values()]
        lines.append(f"| {column} | " + " | ".join(cells) + " |")
    for contender in dict.fromkeys(c for found in networks.values() for c in found["seconds"]):
        cells = [_seconds(found["seconds"].get(contender)) for found in networks.values()]
        lines.append(f"| {contender} | " + " | ".join(cells) + " |")
    return lines


def _seconds(times: Sequence[Mapping[str, float]] | None) -> str:
    return "–" if times is None else f"{statistics.median(one['wall'] for one in times):.2f} s"


def _heading(title: str, columns: Iterable[str]) -> list[str]:
    names = list(columns)
    return [f"| {title} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]


def _adapt(networks: Mapping[str, Any]) -> list[str]:
    lines = _heading("`adapt` whole", networks)
    sizes = [size for found in networks.values() for size in found.items()]
    for size, row in dict.fromkeys((size, row) for size, one in sizes for row in one["ratios"]):
        cells = [
            _cell(found.get(size, {"ratios": {}})["ratios"].get(row)) for found in networks.values()
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return lines


def _first(networks: Mapping[str, Any]) -> list[str]:
    lines = _heading("`recalibrate` in a fresh process", networks)
    ratios = [f["calls"][0] / statistics.median(f["calls"][1:]) for f in networks.values()]
    lines.append("| first / later calls | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")
    imports = [f"{found['import']:.2f} s" for found in networks.values()]
    lines.append("| import of bn_ops | " + " | ".join(imports) + " |")
    return lines


def _scaling(networks: Mapping[str, Any]) -> list[str]:
    ((network, found),) = networks.items()
    lines = _heading(f"{network}, exact", (f"{n} images" for n in found["images"]))
    lines.append("| seconds | " + " | ".join(f"{s:.2f}" for s in found["images"].values()) + " |")
    per = [f"{1000 * s / int(n):.1f}" for n, s in found["images"].items()]
    lines.append("| milliseconds per image | " + " | ".join(per) + " |")
    by = ", ".join(f"{s:.2f} s on {n}" for n, s in found["threads"].items())
    return [*lines, "", f"By number of threads: {by}."]


def _about(result: Mapping[str, Any]) -> str:
    about = result["about"]
    commit = f" ({about['commit']})" if about["commit"] else ""
    note = f" {about['note']}" if about["note"] else ""
    return (
        f"{about['date']}{commit}, {about['cpu']}, "
        f"{about['threads']} threads of {about['cores']} cores, "
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


_PARTS: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "passes": _passes,
    "adapt": _adapt,
    "first": _first,
    "scaling": _scaling,
}
