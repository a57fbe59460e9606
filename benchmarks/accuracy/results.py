"""Raw rows as JSON, with the machine and versions that they were measured on."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["EMPTY", "RESULTS", "read_results", "replace_marked", "write_results"]

EMPTY: Mapping[str, Any] = {"rows": []}

RESULTS = Path(__file__).parents[1] / "results"


def write_results(
    name: str, rows: Sequence[Mapping[str, Any]], *, seconds: float, **settings: object
) -> Path:
    """Write `benchmarks/results/accuracy-<name>.json`: one row per line, for readable diffs."""
    head = {
        "benchmark": f"accuracy-{name}",
        "seconds": round(seconds),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
        **settings,
    }
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    text = json.dumps({**head, "rows": []}, indent=1).replace(
        '"rows": []', f'"rows": [\n{lines}\n ]'
    )
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"accuracy-{name}.json"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def read_results(name: str) -> dict[str, Any] | None:
    """Return the results that `write_results` wrote, or None without a file."""
    path = RESULTS / f"accuracy-{name}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def replace_marked(name: str, page: Path, text: str) -> None:
    """Replace what stands between `<!-- name: begin -->` and `<!-- name: end -->` in a page."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}", encoding="utf-8")
