"""Write the measured tables of docs/folding.md between their markers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["write_tables"]

FLOAT32_TOLERANCE = 1e-5

OUTCOMES = (
    ("folded", "graphs with at least one layer folded correctly"),
    ("left", "graphs left unfolded, correct"),
    ("wrong", "graphs folded incorrectly"),
    ("invalid", "graphs made invalid"),
    ("crashed", "graphs that crash the tool"),
    ("unchecked", "graphs that no runtime can run"),
)


def write_tables(path: Path, results: Mapping[str, Any]) -> None:
    """Replace the text between the markers."""
    text = path.read_text()
    text = _between(text, "cases", _cases(results))
    text = _between(text, "faults", _faults(results))
    if "networks" in results:
        text = _between(text, "networks", _networks(results))
    path.write_text(text)


def _between(text: str, name: str, content: str) -> str:
    start, end = f"<!-- {name}: measured -->", f"<!-- {name}: end -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n\n{content}\n\n{end}{after}"


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _cases(results: Mapping[str, Any]) -> str:
    versions: Mapping[str, str] = results["versions"]
    tools, cases = _order(versions), results["cases"]

    def count(test: Callable[[Mapping[str, Any]], bool]) -> list[int]:
        return [sum(test(verdicts[tool]) for verdicts in cases.values()) for tool in tools]

    rows = [
        _row([f"of {len(cases)} graphs", *(f"{tool} {versions[tool]}" for tool in tools)]),
        _row(["---"] * (len(tools) + 1)),
    ]
    for outcome, words in OUTCOMES:
        rows.append(_row([words, *count(lambda v, o=outcome: v["outcome"] == o)]))  # type: ignore[misc]  # bound per row
    layers = [
        sum(v[tool]["layers"] for v in cases.values() if v[tool]["outcome"] == "folded")
        for tool in tools
    ]
    rows.append(_row(["layers folded correctly", *layers]))
    single = {n: v for n, v in cases.items() if results["tolerances"][n] == FLOAT32_TOLERANCE}
    worst = [
        max((v[t]["error"] for v in single.values() if v[t]["outcome"] == "folded"), default=0.0)
        for t in tools
    ]
    rows.append(
        _row(["largest error of a correct float32 fold", *(f"{value:.1e}" for value in worst)])
    )
    return "\n".join(rows)


def _faults(results: Mapping[str, Any]) -> str:
    lines = []
    for tool in _order(results["versions"]):
        for kind in ("wrong", "invalid", "crashed"):
            names = [n for n, v in results["cases"].items() if v[tool]["outcome"] == kind]
            if names:
                lines.append(f"- **{tool}**, {kind}: {'; '.join(names)}.")
    return "\n".join(lines)


def _networks(results: Mapping[str, Any]) -> str:
    networks: Mapping[str, Any] = results["networks"]
    tools = ["unfolded", *_order(results["versions"])]
    rows = [_row(["", *tools]), _row(["---"] * (len(tools) + 1))]
    for name, found in networks.items():
        rows += _times(name, found, tools) if "seconds" in found else []
        rows.append(_row([f"{name}, nodes", *(found["nodes"].get(t, "") for t in tools)]))
        rows.append(_row([f"{name}, remaining layers", *(found["left"].get(t, "") for t in tools)]))
    return "\n".join(rows)


def _times(name: str, found: Mapping[str, Any], tools: Sequence[str]) -> list[str]:
    seconds, ratio = found["seconds"], found["ratio"]
    cells = [f"{1e3 * seconds[t]:.1f} ms" if t in seconds else "failed" for t in tools]
    ratios = [f"{ratio[t]:.2f}" if t in ratio else "" for t in tools]
    return [
        _row([f"{name}, one image", *cells]),
        _row([f"{name}, bnrecal's time ÷ tool's time", *ratios]),
    ]


def _order(versions: Mapping[str, str]) -> list[str]:
    return ["bnrecal", *(tool for tool in versions if tool != "bnrecal")]
