"""Every notebook runs, prints what it shows, and is small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
MAX_BYTES = 20_000


def masked(text: str) -> str:
    """Return text without the digits of its numbers, which depend on the processor."""
    return re.sub(r"\s*\d+(\.\d+)?", " #", text)


def test_notebooks_are_found() -> None:
    assert len(NOTEBOOKS) == 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_prints_the_outputs_that_it_shows(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}[{number}]", "exec"), names)
        shown = "".join(text for output in cell["outputs"] for text in output["text"])
        assert masked(capsys.readouterr().out) == masked(shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_text_without_bulk(path: Path) -> None:
    assert path.stat().st_size <= MAX_BYTES
    book = json.loads(path.read_text())
    for cell in book["cells"]:
        assert "execution" not in cell["metadata"]
        for output in cell.get("outputs", ()):
            assert output["output_type"] == "stream"
    assert str(Path.home()) not in path.read_text()
