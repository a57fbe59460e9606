"""Generate parts of docs/: `python -m tools.service_docs` writes them, a test compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from service import problems
from service.app import create_app
from service.repositories import lifecycle
from service.settings import Settings
from service.telemetry.metrics import Metrics
from tools import diagrams, site_docs
from tools.log_actions import ACTIONS

_BEGIN = "<!-- generated: {name} -->\n"
_END = "<!-- end -->"


def lifecycle_picture() -> str:
    """Name the diagram of the states, with every transition as its text."""
    ways = [
        f"{state} to {target} ({event})"
        for state, events in lifecycle.TRANSITIONS.items()
        for event, target in events.items()
    ]
    return f"![States of a recalibration: {', '.join(ways)}](diagrams/lifecycle.svg)"


def settings_table() -> str:
    """List every setting with its variable, its key in a file, default and meaning."""
    rows = ["| variable | key in the file | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "") else f"`{field.default}`"
        variable = f"BNRECAL_{name.upper()}"
        rows.append(f"| `{variable}` | `{name}` | {default} | {field.description} |")
    return "\n".join(rows)


def problems_table() -> str:
    """List every problem with its status and title."""
    rows = ["| code | status | retryable | meaning |", "|---|---|---|---|"]
    for code, problem in problems.TABLE.items():
        retryable = "yes" if problem.retryable else ""
        rows.append(f"| `{code}` | {problem.status} | {retryable} | {problem.title} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """List every metric of `/metrics`."""
    rows = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    metrics = Metrics()
    for family in metrics.registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(f"`{label}`" for label in metrics.labels.get(name, ()))
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(rows)


def actions_table() -> str:
    """List every action that is logged."""
    rows = ["| `action` | when |", "|---|---|"]
    return "\n".join(rows + [f"| `{name}` | {text} |" for name, text in ACTIONS.items()])


def sections() -> dict[str, str]:
    """Return the generated parts of docs/service.md by name."""
    return {
        "lifecycle": lifecycle_picture(),
        "settings": settings_table(),
        "problems": problems_table(),
        "metrics": metrics_table(),
        "actions": actions_table(),
    }


def fill(text: str) -> str:
    """Write the generated parts into a page."""
    for name, content in sections().items():
        begin = _BEGIN.format(name=name)
        before, _, rest = text.partition(begin)
        _, _, behind = rest.partition(_END)
        text = f"{before}{begin}{content}\n{_END}{behind}"
    return text


def openapi() -> str:
    """Return the OpenAPI document as it is committed."""
    return json.dumps(create_app(Settings()).openapi(), indent=1, ensure_ascii=False) + "\n"


def main(folder: Path) -> int:
    """Bring a folder of documents up to date."""
    page = folder / "service.md"
    page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "openapi.json").write_text(openapi(), encoding="utf-8")
    diagrams.main(folder)
    return site_docs.main(folder)


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:2] or ["docs"])))
