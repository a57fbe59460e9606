"""Every Python block of the start page, the tutorials and the page on sharding runs as promised."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.picture import encoded, picture
from tests.support.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", DOCS / "sharding.md", *sorted((DOCS / "tutorials").glob("*.md"))]
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the pages assume: the examples of the clone, a model and photographs."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(tmp_path / "examples" / "digits" / "mnist_resnet.onnx", tmp_path / "model.onnx")
    (tmp_path / "photos").mkdir()
    for seed in range(12):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(encoded(picture(80, 80, seed)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: str, place: str, names: dict[str, Any]) -> None:
    exec(compile(code, place, "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_block_runs_in_order(
    page: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    names: dict[str, Any] = {"__name__": "__main__"}
    if ADDRESS in text:
        with ServerProcess(folder / "data") as server:
            for block in blocks:
                run(block.replace(ADDRESS, server.url), page.name, names)
    else:
        for block in blocks:
            run(block, page.name, names)
    printed = capsys.readouterr().out.splitlines()
    for promised in re.findall(r"print\(.*\)  # (.*)", text):
        assert promised in printed, promised
    assert Path(os.curdir).resolve() == folder.resolve()


def test_pages_are_found() -> None:
    assert len(PAGES) == 8
