"""The generated pages are current and complete, and the check of the site finds faults."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from bnrecal_client import errors as client_errors
from service import problems
from tools.check_site import faults
from tools.error_causes import CAUSES, CLIENT_CAUSES
from tools.site_docs import http_page, pages

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


def test_pages_are_current() -> None:
    for path, text in pages(DOCS).items():
        assert path.read_text(encoding="utf-8") == text, "run `python -m tools.service_docs`"


def test_every_code_has_a_cause_and_a_fix() -> None:
    assert CAUSES.keys() == problems.TABLE.keys()
    own = {
        kind.default_code
        for name in client_errors.__all__
        if hasattr(kind := getattr(client_errors, name), "default_code")
    }
    assert CLIENT_CAUSES.keys() == own - problems.TABLE.keys()
    for cause in (*CAUSES.values(), *CLIENT_CAUSES.values()):
        for sentence in cause:
            assert sentence[0].isupper() or sentence[0] == "`"
            assert sentence.endswith(".")


def test_every_route_and_object_is_in_the_reference() -> None:
    document = json.loads((DOCS / "openapi.json").read_text(encoding="utf-8"))
    text = http_page(document)
    for path, item in document["paths"].items():
        for method in item:
            assert f"## `{method.upper()} {path}`\n" in text
    for name in document["components"]["schemas"]:
        assert f"### {name}\n" in text
    for name in re.findall(r"\]\(#([\w-]+)\)", text):
        assert f"### {name}\n" in text.lower()


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    named = re.findall(r'"([\w/-]+\.md)"', text[: text.index("[project.theme]")])
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert set(named) == written
    assert len(named) == len(set(named))
    assert tomllib.loads(text)["project"]["theme"]["font"] is False


def site(folder: Path, **names: str) -> Path:
    for name, text in names.items():
        (folder / f"{name}.html").write_text(f"<html><body>{text}</body></html>")
    return folder


def test_a_site_without_faults(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("")
    pages = {
        "index": '<link href="a.css"><a href="other.html#x">x</a><a href="#top" id="top">y</a>',
        "other": '<h2 id="x">X</h2><a href=".">start</a><a href="https://example.org">z</a>',
    }
    assert faults(site(tmp_path, **pages)) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('<a href="no.html">x</a>', "index.html: no.html"),
        ('<a href="#no">x</a>', "index.html: #no"),
        ('<a href="other.html#no">x</a>', "index.html: other.html#no"),
        ('<script src="https://cdn.example/x.js"></script>', "loads https://cdn.example/x.js"),
        ('<script src="//cdn.example/x.js"></script>', "loads //cdn.example/x.js"),
        ('<link rel="stylesheet" href="https://cdn.example/x.css">', "loads https://cdn.example"),
        ('<img src="https://cdn.example/x.png">', "loads https://cdn.example/x.png"),
        ('<pre class="mermaid">x</pre>', "diagram"),
    ],
)
def test_faults_are_found(tmp_path: Path, text: str, fault: str) -> None:
    [found] = faults(site(tmp_path, index=text, other='<p id="x">y</p>'))
    assert fault in found


def test_an_empty_site_is_a_fault(tmp_path: Path) -> None:
    assert len(faults(tmp_path)) == 1
