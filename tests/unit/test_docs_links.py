"""Links in the Markdown pages lead to existing files and headings; named modules exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.diagrams import decision

ROOT = Path(__file__).parents[2]
FOLDERS = ("", "docs", "docs/reference", "docs/tutorials", "clients/python", "examples/digits")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
_FENCE = re.compile(r"^```.*?^```", flags=re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub derives them from the text."""
    headings = _HEADING.findall(_FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path, text: str) -> list[str]:
    """Return the links of a page that lead nowhere."""
    found = []
    for file, anchor in _LINK.findall(_FENCE.sub("", text)):
        target = page.parent / file if file else page
        content = text if target == page else None
        if not target.exists():
            found.append(file)
        elif anchor and anchor not in anchors(content or target.read_text()):
            found.append(f"{file}#{anchor}")
    return found


def test_pages_are_found() -> None:
    assert {"README.md", "CHANGELOG.md", "service.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def missing_modules(text: str) -> set[str]:
    """Return the modules that a page names in code font and that no package has."""
    packages = ("bn_ops", "service", "tools", "clients/python")
    known = {
        f"/{path.relative_to(ROOT)}" for name in packages for path in ROOT.glob(f"{name}/**/*.py")
    }
    tests = {f"/{path.relative_to(ROOT)}" for path in ROOT.glob("tests/**/*.py")}
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    return {one for one in named if not any(path.endswith(f"/{one}") for path in known | tests)}


def test_architecture_names_existing_modules() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert missing_modules(text) == set()
    assert "`pipeline/run.py`" in text


def test_missing_modules_are_found() -> None:
    assert missing_modules("`retention.py` `service/app.py` `app/pipeline.py`") == {
        "app/pipeline.py"
    }


def test_broken_links_are_found() -> None:
    page = ROOT / "README.md"
    text = "# A `b` c\n[x](no.md) [y](#a-b-c) [z](#d) [w](docs/service.md#no) [v](docs/service.md)"
    assert broken(page, text) == ["no.md", "#d", "docs/service.md#no"]


# What the pages for readers quote, and the page that has the measurement.
QUOTED = {
    "evidence.md": ("0 of 685 rows", "467 of 550 rows", "525", "65 of 149 rows", "5.8 %"),
    "harm-check.md": ("18 of 22 harmful", "15 of 78 helpful"),
}


@pytest.mark.parametrize("source", QUOTED)
def test_quoted_figures_are_those_of_the_measurement(source: str) -> None:
    docs = ROOT / "docs"
    measured = " ".join((docs / source).read_text(encoding="utf-8").split())
    pages = [docs / "should-i-recalibrate.md", docs / "guarantees.md"]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    texts += [" ".join(box.lines) for box in decision().boxes]
    quoting = " ".join(" ".join(text.split()) for text in texts).replace("1,006", "1006")
    for figure in QUOTED[source]:
        assert figure in measured, figure
        assert figure in quoting, figure
    quoted = set(re.findall(r"\d+ of \d+ (?:rows|harmful|helpful)", quoting))
    assert quoted == {figure for known in QUOTED.values() for figure in known if " of " in figure}
